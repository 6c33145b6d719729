package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/quipudb/quipu/api"
	"github.com/quipudb/quipu/internal/client"
)

// eraseCmd deletes what a running server has stored of a tenant.
type eraseCmd struct {
	Series eraseSeriesCmd `cmd:"" help:"Delete what selectors select."`
	Rule   eraseRuleCmd   `cmd:"" help:"Delete what an event rule made."`
	Users  eraseUsersCmd  `cmd:"" help:"Destroy the key of user ids: nobody who was counted can be told any more."`
	Status eraseStatusCmd `cmd:"" help:"Show deletions and how far they are."`
}

// erasing are the flags of what deletes.
type erasing struct {
	remote `embed:""`

	Start string `placeholder:"TIME" help:"First time: RFC 3339, seconds since 1970, or like now-1h (default: the first that there is)."`
	End   string `placeholder:"TIME" help:"Last time (default: the last that there is)."`
	Wait  bool   `help:"Wait until it is on the server's disk no more, but in snapshots."`
}

// begin returns the server, and the times as it takes them.
func (c *erasing) begin(con *console) (server *client.Client, start, end string, err error) {
	texts := [2]string{c.Start, c.End}
	for i, name := range []string{"--start", "--end"} {
		if texts[i] == "" {
			continue
		}
		at, err := parseInstant(texts[i], con.now())
		if err != nil {
			return nil, "", "", fmt.Errorf("%s: %w", name, err)
		}
		texts[i] = at.UTC().Format(time.RFC3339Nano)
	}
	server, err = c.connect()
	return server, texts[0], texts[1], err
}

// erasePoll is how often a deletion is asked for that is waited for.
const erasePoll = 200 * time.Millisecond

// follow says what was deleted, and waits for it where that is asked for.
func (c *erasing) follow(con *console, server *client.Client, ids []string) error {
	if len(ids) == 0 {
		fmt.Fprintln(con.out, "there is no such tenant, so nothing is deleted")
		return nil
	}
	fmt.Fprintf(con.out, "deleted; in no answer any more, deletion %s\n", strings.Join(ids, ", "))
	if !c.Wait {
		return nil
	}
	for _, id := range ids {
		for {
			data, err := server.Deletion(con.ctx, id)
			if err != nil {
				return err
			}
			var d api.Deletion
			if err := json.Unmarshal(data, &d); err != nil {
				return fmt.Errorf("read the server's answer about deletion %s: %w", id, err)
			}
			if d.State == api.DeletionFailed {
				return fmt.Errorf("deletion %s is in no answer, but still on the disk, which is tried again: %s", id, d.Error)
			}
			if d.State == api.DeletionDone {
				break
			}
			select {
			case <-con.ctx.Done():
				return con.ctx.Err()
			case <-time.After(erasePoll):
			}
		}
	}
	fmt.Fprintln(con.out, "on the disk no more")
	return nil
}

type eraseSeriesCmd struct {
	erasing `embed:""`

	Selectors []string `arg:"" name:"selector" help:"Series, as page_views_total{page=\"/a\"}."`
}

func (c *eraseSeriesCmd) Run(con *console) error {
	server, start, end, err := c.begin(con)
	if err != nil {
		return err
	}
	ids, err := server.DeleteSeries(con.ctx, c.Selectors, start, end)
	if err != nil {
		return err
	}
	return c.follow(con, server, ids)
}

type eraseRuleCmd struct {
	erasing `embed:""`

	Rule string `arg:"" help:"Name of an event rule in force."`
}

func (c *eraseRuleCmd) Run(con *console) error {
	server, start, end, err := c.begin(con)
	if err != nil {
		return err
	}
	data, err := server.DeleteRuleData(con.ctx, c.Rule, start, end)
	if err != nil {
		return err
	}
	var deleted struct {
		Metrics   []string `json:"metrics"`
		Deletions []uint64 `json:"deletions"`
	}
	if err := json.Unmarshal(data, &deleted); err != nil {
		return fmt.Errorf("read the server's answer about rule %s: %w", c.Rule, err)
	}
	var ids []string
	for _, id := range deleted.Deletions {
		ids = append(ids, strconv.FormatUint(id, 10))
	}
	fmt.Fprintf(con.out, "metrics of the rule: %s\n", strings.Join(deleted.Metrics, ", "))
	return c.follow(con, server, ids)
}

type eraseUsersCmd struct {
	printing `embed:""`

	Yes bool `help:"Do not ask."`
}

func (c *eraseUsersCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	if !c.Yes {
		fmt.Fprint(con.err, "All users of the tenant will be somebody new from now on; what was counted stays. Type yes to destroy the key of their ids: ")
		typed, err := bufio.NewReader(con.in).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read the answer: %w", err)
		}
		if strings.TrimSpace(typed) != "yes" {
			return errors.New("nothing is erased: yes was not typed, and there is no --yes")
		}
	}
	data, err := server.EraseUsers(con.ctx)
	return showData(con, c.Output, data, err, func(w io.Writer, e *api.ErasedUsers) {
		fmt.Fprintf(w, "erased at\t%s\nkeys until now\t%d\nsnapshots with an old key\t%s\n\n%s\n", e.Time, e.Keys, strings.Join(e.Snapshots, " "), e.Note)
	})
}

type eraseStatusCmd struct {
	printing `embed:""`

	ID string `arg:"" optional:"" help:"A deletion (default: those that are not done, and the last that are)."`
}

func (c *eraseStatusCmd) Run(con *console) error {
	server, err := c.connect()
	if err != nil {
		return err
	}
	row := func(w io.Writer, d *api.Deletion) {
		fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, d.Left, d.Accepted, d.Match, d.Start, d.End, d.Error)
	}
	const head = "ID\tSTATE\tLEFT\tACCEPTED\tSERIES\tFROM\tTO\t\n"
	if c.ID != "" {
		data, err := server.Deletion(con.ctx, c.ID)
		return showData(con, c.Output, data, err, func(w io.Writer, d *api.Deletion) { fmt.Fprint(w, head); row(w, d) })
	}
	data, err := server.Deletions(con.ctx)
	return showData(con, c.Output, data, err, func(w io.Writer, all *[]api.Deletion) {
		fmt.Fprint(w, head)
		for i := range *all {
			row(w, &(*all)[i])
		}
	})
}
