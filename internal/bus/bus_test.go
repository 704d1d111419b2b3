package bus_test

import (
	"testing"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/bus/bustest"
)

func TestLocal(t *testing.T) {
	bustest.Run(t, func(*testing.T) bus.Bus { return bus.New() })
}

func TestTopics(t *testing.T) {
	id := [16]byte{0: 0xab, 15: 0x01}
	for _, c := range []struct{ got, want string }{
		{bus.Agent(7, id), "agent.7.ab000000000000000000000000000001"},
		{bus.Push(7), "push.7"},
		{bus.Log(7), "log.7"},
	} {
		if c.got != c.want {
			t.Errorf("topic %q, want %q", c.got, c.want)
		}
	}
}
