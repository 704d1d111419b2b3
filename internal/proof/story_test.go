package proof

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/agent/journal"
	"github.com/rotunda-pam/rotunda/internal/installation"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
)

// story is all that is known of an account whose fate was not as it must be: what its
// target says to each value that the vault has; its runs, as the vault's rows, its events
// and the signed results tell them; what the agents' journals hold; and what the programs
// logged of it. No secret is in it.
func (w *world) story(ctx context.Context, k kindOfTarget, title string, agents ...*installation.Agent) string {
	var b strings.Builder
	ref, err := w.refOf(ctx, title)
	if err != nil {
		return fmt.Sprintf("no story of %s can be told: %v", title, err)
	}
	fmt.Fprintf(&b, "==== the story of %s, record %s\n", title, ref.Record)
	w.tellTarget(ctx, &b, k, title)
	runs := w.tellVault(ctx, &b, title, ref)
	for _, a := range agents {
		tellJournal(&b, a, ref)
	}
	words := append(runs, ref.Record.String())
	out, err := w.CLI(ctx, nil, "events", "--limit", "1000", "--name", "run.,lease.,candidate.,schedule.,command.,agent.")
	newest := bytes.SplitAfter(out, []byte("\n"))
	slices.Reverse(newest)
	fmt.Fprintf(&b, "---- events (%v)\n", err)
	tellLines(&b, bytes.NewReader(bytes.Join(newest, nil)), append(words, "agent.connected", "agent.disconnected"))
	logs, _ := filepath.Glob(filepath.Join(w.Dir, "log", "*"))
	for _, file := range logs {
		fmt.Fprintf(&b, "---- log of %s\n", filepath.Base(file))
		if f, err := os.Open(file); err == nil {
			tellLines(&b, f, append(words, "the channel to the server"))
			f.Close()
		}
	}
	return b.String()
}

func (w *world) refOf(ctx context.Context, title string) (trust.Ref, error) {
	var r struct {
		UID    string `json:"uid"`
		Folder string `json:"folder_uid"`
	}
	if err := w.JSON(ctx, &r, nil, "record", "get", title); err != nil {
		return trust.Ref{}, err
	}
	record, err := seal.ParseID(r.UID)
	if err != nil {
		return trust.Ref{}, err
	}
	folder, err := seal.ParseID(r.Folder)
	return trust.Ref{Folder: folder, Record: record}, err
}

// tellTarget asks the target about the current value, the candidate beside it, and the five
// values before.
func (w *world) tellTarget(ctx context.Context, b *strings.Builder, k kindOfTarget, title string) {
	says := func(what string, c sdk.Credential, err error) {
		if err == nil {
			var ok bool
			if ok, err = k.accepts(ctx, title, c); err == nil {
				fmt.Fprintf(b, "the target, asked about %s: %s\n", what, map[bool]string{true: "accepted", false: "REFUSED"}[ok])
				return
			}
		}
		fmt.Fprintf(b, "the target, asked about %s: %v\n", what, err)
	}
	c, err := w.Credential(ctx, title, k.kind)
	says("the vault's current value", c, err)
	if k.keys != nil {
		file, err := k.keys(title)
		fmt.Fprintf(b, "---- its keys (%v)\n%s", err, file)
	}
	if r, err := w.Record(ctx, title); err == nil && r.Candidate != nil {
		var shown struct{ Secret string }
		err := w.JSON(ctx, &shown, nil, "record", "get", title, "--candidate", r.Candidate.RunID, "--reveal")
		says("the candidate of run "+r.Candidate.RunID, sdk.Credential{Kind: k.kind, Secret: sdk.NewSecret([]byte(shown.Secret))}, err)
	}
	var former struct {
		History []struct {
			Revision int64
			Why      string
			Secret   string
		}
	}
	if err := w.JSON(ctx, &former, nil, "record", "history", title, "--reveal", "--limit", "5"); err != nil {
		fmt.Fprintf(b, "the history: %v\n", err)
	}
	for _, h := range former.History {
		says(fmt.Sprintf("the value of revision %d (%s)", h.Revision, h.Why), sdk.Credential{Kind: k.kind, Secret: sdk.NewSecret([]byte(h.Secret))}, nil)
	}
}

// tellVault tells the account's rows and newest runs, and gives the runs' ids.
func (w *world) tellVault(ctx context.Context, b *strings.Builder, title string, ref trust.Ref) (runs []string) {
	if pool, err := sql.Open("sqlite", "file:"+w.Database()+"?mode=ro"); err == nil {
		defer pool.Close()
		for table, column := range map[string]string{"lease": "account_uid", "staged": "record_uid"} {
			fmt.Fprintf(b, "---- the vault's table %s, at %d\n", table, time.Now().UnixMilli())
			tellRows(ctx, b, pool, "SELECT * FROM "+table+" WHERE "+column+" = ?", ref.Record.Bytes())
		}
	}
	var list struct {
		Runs []struct {
			ID string `json:"run_id"`
		}
	}
	if err := w.JSON(ctx, &list, nil, "run", "list", "--account", title, "--limit", "5"); err != nil {
		fmt.Fprintf(b, "the runs: %v\n", err)
	}
	slices.Reverse(list.Runs)
	for _, r := range list.Runs {
		out, err := w.CLI(ctx, nil, "run", "show", r.ID)
		fmt.Fprintf(b, "---- run %s (%v)\n%s", r.ID, err, out)
		runs = append(runs, r.ID)
	}
	return runs
}

// tellRows prints rows; of what is long, a digest.
func tellRows(ctx context.Context, b *strings.Builder, pool *sql.DB, query string, args ...any) {
	rows, err := pool.QueryContext(ctx, query, args...)
	if err != nil {
		fmt.Fprintln(b, err)
		return
	}
	defer rows.Close()
	names, _ := rows.Columns()
	for rows.Next() {
		values := make([]any, len(names))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			fmt.Fprintln(b, err)
			return
		}
		for i, name := range names {
			v := *values[i].(*any)
			switch bytes, ok := v.([]byte); {
			case ok && len(bytes) == len(seal.ID{}):
				v = seal.ID(bytes)
			case ok && len(bytes) > 0:
				digest := seal.Hash(bytes)
				v = fmt.Sprintf("%d bytes %s", len(bytes), hex.EncodeToString(digest[:4]))
			}
			fmt.Fprintf(b, "%s=%v ", name, v)
		}
		fmt.Fprintln(b)
	}
}

// tellJournal tells what an agent's journal holds, from a copy: the agent has the file.
func tellJournal(b *strings.Builder, a *installation.Agent, ref trust.Ref) {
	fmt.Fprintf(b, "---- journal of %s\n", a.Name)
	err := func() error {
		data, err := os.ReadFile(filepath.Join(a.Dir, "data", "journal.db"))
		if err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "rotunda-story-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file := filepath.Join(dir, "journal.db")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
		j, _, err := journal.Open(file, false, time.Now())
		if err != nil {
			return err
		}
		defer j.Close()
		open, err := j.OpenRuns()
		if err != nil {
			return err
		}
		for _, r := range open {
			if r.Account == ref.Record {
				fmt.Fprintf(b, "open run %s, begun %s\n", r.ID, r.Started.UTC().Format(time.RFC3339Nano))
			}
		}
		outstanding, committed, err := j.Kept(ref)
		for what, k := range map[string]*journal.Kept{"staged and no end known": outstanding, "committed": committed} {
			if k != nil {
				fmt.Fprintf(b, "%s: value %d, digest %s\n", what, k.Seq, hex.EncodeToString(k.Digest[:4]))
			}
		}
		return err
	}()
	if err != nil {
		fmt.Fprintln(b, err)
	}
}

// tellLines passes on the lines that hold one of these words.
func tellLines(b *strings.Builder, from io.Reader, words []string) {
	s := bufio.NewScanner(from)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s.Text(), w) }) {
			fmt.Fprintln(b, s.Text())
		}
	}
}
