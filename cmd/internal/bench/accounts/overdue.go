package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	_ "modernc.org/sqlite" // of a stopped server's database

	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
)

// overdue: the server was down while many accounts were due. People go on working while
// it catches up.
func overdue(ctx context.Context, o options) (_ []*table, err error) {
	w, err := newWorld(ctx, o, fast, 16)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	accounts, err := w.addAccounts(ctx, o.overdue, "overdue", w.resources, daily())
	if err != nil {
		return nil, err
	}
	by := make([]string, 0, manual)
	hand, err := w.addAccounts(ctx, manual, "hand", w.resources[:1], nil)
	if err != nil {
		return nil, err
	}
	for _, a := range hand {
		by = append(by, a.title)
	}
	if err := w.warm(ctx, "overdue"); err != nil {
		return nil, err
	}
	// What people wait where nothing else is under way.
	var alone, amid []time.Duration
	for _, title := range by[:manual/2] {
		took, err := w.command(ctx, "rotate", title)
		if err != nil {
			return nil, err
		}
		alone = append(alone, took)
	}
	by = by[manual/2:]

	w.Server.Stop()
	if err := w.setBack(ctx, len(accounts), time.Hour); err != nil {
		return nil, fmt.Errorf("set the due times back: %w", err)
	}
	if err := w.StartServer(ctx); err != nil {
		return nil, err
	}
	since := time.Now().Add(-time.Second)
	if err := w.signIn(ctx); err != nil {
		return nil, err
	}
	server, agents, plugins := w.cpu()
	most, failed := 0.0, error(nil)
	runs, err := w.ended(ctx, accounts, since, func() {
		if counts, err := w.agents[0].Metrics(ctx); err == nil {
			most = max(most, counts["rotunda_agent_active_runs"])
		}
		if most > 0 && len(by) > 0 && failed == nil {
			var took time.Duration
			took, failed = w.command(ctx, "rotate", by[0])
			amid, by = append(amid, took), by[1:]
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	after, agentsAfter, pluginsAfter := w.cpu()
	s, err := sample{}.of(accounts, runs, since.Add(time.Second))
	if err != nil {
		return nil, err
	}
	if len(amid) == 0 {
		return nil, errors.New("all was caught up before a person could rotate anything: make more accounts overdue")
	}
	bare, err := floor(ctx, w.targets, o.overdue)
	if err != nil {
		return nil, fmt.Errorf("floor: %w", err)
	}
	t := figures("overdue", fmt.Sprintf("%s accounts overdue when the server is back", thousands(o.overdue)))
	f := percentile(bare, 100)
	t.add("server back to all caught up", f, s.wall, s.wall.Seconds()/f.Seconds(), aimed("at most 10 minutes", s.wall <= 10*time.Minute))
	rate, most1 := float64(len(accounts))/s.wall.Seconds(), float64(len(accounts))/f.Seconds()
	t.add("runs per second", most1, rate, rate/most1, "")
	for _, p := range []int{50, 100} {
		a, b := percentile(alone, p), percentile(amid, p)
		// Who is starved waits until most of the others are done.
		t.add(fmt.Sprintf("`rotunda rotate` of a person meanwhile, p%d of %d", p, len(amid)), a, b, b.Seconds()/a.Seconds(), aimed("not starved", b < s.wall/2))
	}
	_, memServer := memory(w.Server.Pid())
	_, memAgent := memory(w.agents[0].Pid())
	t.add("server, most memory, MiB", nil, memServer, 0, "")
	t.add("agent, most memory, MiB", nil, memAgent, 0, "")
	t.add("agent, runs under way and waiting there, most", nil, most, 0, aimed("bounded (10,000)", most <= 10_000))
	n := time.Duration(len(accounts))
	t.note("Processor time of one run: server %s, agent %s, plugins %s.", span((after-server)/n), span((agentsAfter-agents)/n), span((pluginsAfter-plugins)/n))
	t.note("The due times were set back by an hour in the database of the stopped server. The people's accounts are on a resource that %s of the overdue are on. The command's floor is the same command before, with nothing else under way; that of the runs is the targets' own line.", thousands(len(accounts)/fast))
	return []*table{t}, nil
}

// manual is how many rotations people start, half of them with nothing else under way.
const manual = 16

func daily() *clientv1.Schedule {
	return &clientv1.Schedule{Kind: &clientv1.Schedule_EveryS{EveryS: 86400}, Anchor: time.Now().Add(24 * time.Hour).UnixMilli()}
}

// setBack makes the rotations of a stopped server's database overdue.
func (w *world) setBack(ctx context.Context, want int, by time.Duration) error {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: w.Database()}).String())
	if err != nil {
		return err
	}
	defer db.Close()
	at := time.Now().Add(-by).UnixMilli()
	done, err := db.ExecContext(ctx, "UPDATE rotation SET next_due = ?, next_nominal = ? WHERE next_due > 0", at, at)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || int(n) != want {
		return fmt.Errorf("%d rotations were set back, want %d: %w", n, want, err)
	}
	return db.Close()
}
