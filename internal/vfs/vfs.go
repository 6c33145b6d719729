// Package vfs is the part of a file system that storage writes through, so that
// tests can make any single operation fail.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a file open for writing.
type File interface {
	Write(p []byte) (int, error) // by way of WriteAll
	Sync() error
	Close() error
	// Reserve fills the next n bytes after what is written with zeros, for writes to
	// overwrite: to sync a write that does not grow a file takes half the time.
	Reserve(n int) error
}

// FS is a file system. Implementations are safe for concurrent use.
type FS interface {
	// Create makes or truncates a file; only the owner may read it.
	Create(name string) (File, error)
	ReadFile(name string) ([]byte, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	MkdirAll(name string) error
	Rename(from, to string) error
	// Link gives a file a second name.
	Link(from, to string) error
	Remove(name string) error
	RemoveAll(name string) error
	// Adopt takes note of a file that was written and synced without this FS, by a
	// library that knows only the operating system's.
	Adopt(name string) error
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(name string) error
}

// OS is the operating system's file system.
type OS struct{}

func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

type osFile struct {
	*os.File
	written int64
}

func (f *osFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	return n, err
}

func (f *osFile) Reserve(n int) error {
	_, err := f.File.WriteAt(make([]byte, n), f.written)
	return err
}

func (OS) ReadFile(name string) ([]byte, error)       { return os.ReadFile(name) }
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (OS) MkdirAll(name string) error                 { return os.MkdirAll(name, 0o755) }
func (OS) Rename(from, to string) error               { return os.Rename(from, to) }
func (OS) Link(from, to string) error                 { return os.Link(from, to) }
func (OS) Remove(name string) error                   { return os.Remove(name) }
func (OS) RemoveAll(name string) error                { return os.RemoveAll(name) }

// Adopt has nothing to do.
func (OS) Adopt(string) error { return nil }

func (OS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteAll writes all of p: less without an error is io.ErrShortWrite.
func WriteAll(f File, p []byte) error {
	n, err := f.Write(p)
	if err == nil && n != len(p) {
		return io.ErrShortWrite
	}
	return err
}

// ErrUncertain is in the chain of an error after which a file may hold what it held
// before or what was written, and a crash may still decide which.
var ErrUncertain = errors.New("it is not known whether the change is durable")

// WriteFile replaces the file name by data, atomically and durably: after a crash
// it holds either what it held before or all of data. So it does after an error,
// and unless that is ErrUncertain it is what it held before.
func WriteFile(fsys FS, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := fsys.Create(tmp)
	if err != nil {
		return fmt.Errorf("create %s: %w", tmp, err)
	}
	if err := WriteAll(f, data); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", tmp, err), f.Close(), fsys.Remove(tmp))
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", tmp, err), f.Close(), fsys.Remove(tmp))
	}
	if err := f.Close(); err != nil {
		return errors.Join(fmt.Errorf("close %s: %w", tmp, err), fsys.Remove(tmp))
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return errors.Join(fmt.Errorf("rename %s: %w", tmp, err), fsys.Remove(tmp))
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("sync directory of %s: %w: %w", name, ErrUncertain, err)
	}
	return nil
}
