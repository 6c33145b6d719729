package main

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// console is what a command may use of the world outside: it ends when ctx does.
type console struct {
	ctx      context.Context
	in       io.Reader
	out, err io.Writer
	// outTerminal and errTerminal say whether a person sees the stream.
	outTerminal, errTerminal bool
	// width is that of the terminal in columns, or a common one.
	width    int
	now      func() time.Time
	cacheDir func() (string, error)
	getenv   func(string) string
}

// widthDefault is used where nothing is as wide as a terminal.
const widthDefault = 100

func standardConsole(ctx context.Context) *console {
	con := &console{
		ctx:         ctx,
		in:          os.Stdin,
		out:         os.Stdout,
		err:         os.Stderr,
		outTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		errTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		width:       widthDefault,
		now:         time.Now,
		cacheDir:    os.UserCacheDir,
		getenv:      os.Getenv,
	}
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
		con.width = width
	}
	return con
}
