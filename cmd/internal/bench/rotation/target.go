package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rotunda-pam/rotunda/cmd/internal/bench/floor"
	"github.com/rotunda-pam/rotunda/internal/installation"
)

// addTo makes the product's resource of a target.
func addTo(ctx context.Context, i *installation.Installation, resource string, t floor.Target) error {
	switch t := t.(type) {
	case *floor.Postgres:
		return i.AddPostgres(ctx, resource, t.PG)
	case *floor.SSHD:
		return i.AddSSHD(ctx, resource, t.SSHD)
	}
	return fmt.Errorf("no resource for %s", t.Name())
}

// work is a row's: what is rotated and how that is proven.
type work struct {
	name     string // in the tables, and for -work
	target   string
	verify   string // login or readback: the record's verify mode
	inFlight []int
	// perSecond is about how many the product does of it, at one and at many in flight: so
	// many runs are queued as take about as long as the floor is measured for.
	perSecond [2]float64
	// aim is the least throughput that is aimed at: a share of the floor's, or so many a
	// second by the number in flight.
	aim      float64
	aimEvery map[int]float64
}

// perSecondOfPeers is half as much again as what OpenBao 2 did on a machine of this kind,
// which checks nothing after it has changed a password: 172 and 165 a second at 8 and 32.
var perSecondOfPeers = map[int]float64{8: 258, 32: 248}

var works = []work{
	{name: "postgres-login", target: "postgres", verify: "login", inFlight: []int{1, 8, 32}, perSecond: [2]float64{25, 40}, aim: 0.85},
	{name: "postgres-readback", target: "postgres", verify: "readback", inFlight: []int{1, 8, 32}, perSecond: [2]float64{25, 40}, aimEvery: perSecondOfPeers},
	// As many at once as the plugin has channels on one connection.
	{name: "ssh-password", target: "ssh", verify: "login", inFlight: []int{1, 4}, perSecond: [2]float64{3, 6}, aim: 0.95},
}

// runs is how many runs are queued to be measured.
func (w work) runs(inFlight int, span time.Duration) int {
	perSecond := w.perSecond[0]
	if inFlight > 1 {
		perSecond = w.perSecond[1]
	}
	return max(3*inFlight, int(span.Seconds()*perSecond)+inFlight)
}

// aimed says what is aimed at in a row, and whether it was missed.
func (w work) aimed(inFlight int, ratio, perSecond float64) string {
	aim, reached := "–", true
	if w.aim > 0 {
		aim, reached = fmt.Sprintf("%.2f", w.aim), ratio >= w.aim
	} else if n, ok := w.aimEvery[inFlight]; ok {
		aim, reached = fmt.Sprintf("%.0f a second", n), perSecond >= n
	}
	if !reached {
		aim += ": missed"
	}
	return aim
}
