package proof

import "testing"

// hostileWorld is an installation in the hands of a hostile operator.
type hostileWorld struct {
	*world
}

func newHostileWorld(t *testing.T) *hostileWorld {
	return &hostileWorld{newWorld(t, "fault")}
}
