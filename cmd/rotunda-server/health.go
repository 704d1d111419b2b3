package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/rotunda-pam/rotunda/internal/lean"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/router"
)

// health tells whether the database can be written. Anybody may ask: whoever asks from
// another host learns that alone, and from an answer that is up to a second old, since
// each look takes its turn at the database's only writer.
type health struct {
	st  store.Store
	hub *router.Router

	mu     sync.Mutex
	looked time.Time
	last   looked
}

// looked is what one look found.
type looked struct {
	recovering db.RecoveringSinceRow
	err        error
}

// rememberLook is for how long a look is good enough for strangers.
const rememberLook = time.Second

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var found looked
	answer := map[string]any{}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && at.Addr().Unmap().IsLoopback() {
		found = h.look(r.Context())
		stats := h.st.Stats()
		answer = map[string]any{
			"agents": h.hub.Stats().Connected, "commits": stats.Commits, "writes": stats.Writes, "heap": lean.InUse(),
			// Organisations that recover from a restored backup, and since when: Unix seconds, 0 for none.
			"recovering": found.recovering.N, "recoveringSince": found.recovering.Since / 1000,
		}
	} else {
		found = h.remembered()
	}
	answer["ok"] = found.err == nil
	w.Header().Set("Content-Type", "application/json")
	if found.err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer) // the caller is gone, or it is not
}

func (h *health) remembered() looked {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.looked) >= rememberLook {
		h.last = h.look(context.Background()) // for all who wait
		h.looked = time.Now()
	}
	return h.last
}

// look writes an empty transaction: that costs no write to the disk, and fails where
// another process holds the file.
func (h *health) look(ctx context.Context) (found looked) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	found.err = h.st.Read(ctx, func(q *db.Queries) (err error) {
		found.recovering, err = q.RecoveringSince(ctx)
		return err
	})
	if found.err == nil {
		found.err = h.st.Write(ctx, func(*db.Queries) error { return nil })
	}
	return found
}
