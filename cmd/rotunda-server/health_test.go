package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rotunda-pam/rotunda/internal/bus"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/router"
)

// lookedAt is a store that counts its transactions, and fails when it is told to.
type lookedAt struct {
	store.Store
	writes int
	fail   error
}

func (s *lookedAt) Write(ctx context.Context, f func(*db.Queries) error) error {
	s.writes++
	if s.fail != nil {
		return s.fail
	}
	return s.Store.Write(ctx, f)
}

// Whoever asks from another host learns whether the server is well, and makes the database
// no work by asking often; on the host itself everything is told.
func TestHealth(t *testing.T) {
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "rotunda.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	hub, err := router.New(t.Context(), router.Config{
		Store: st, Bus: bus.New(), Node: "main", Hosts: []string{"localhost"}, Log: slog.New(slog.DiscardHandler),
		Refused: func(context.Context, *db.Queries, int64, seal.ID, seal.ID, string) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Shutdown(context.Background()) //nolint:errcheck // nobody is connected
	counted := &lookedAt{Store: st}
	h := &health{st: counted, hub: hub}
	ask := func(from string) (status int, names []string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if answer["ok"] != (w.Code == http.StatusOK) {
			t.Errorf("status %d, %v", w.Code, answer)
		}
		return w.Code, slices.Sorted(maps.Keys(answer))
	}
	all := []string{"agents", "commits", "heap", "ok", "recovering", "recoveringSince", "writes"}
	for _, c := range []struct {
		from string
		want []string
	}{
		{"127.0.0.1:1000", all},
		{"[::1]:1000", all},
		{"[::ffff:127.0.0.1]:1000", all},
		{"192.0.2.7:1000", []string{"ok"}},
		{"[2001:db8::7]:1000", []string{"ok"}},
	} {
		if status, names := ask(c.from); status != http.StatusOK || !slices.Equal(names, c.want) {
			t.Errorf("from %s: %d, %v", c.from, status, names)
		}
	}
	counted.writes = 0
	for range 100 {
		ask("192.0.2.7:1000")
	}
	if counted.writes > 2 { // a slow machine may need more than a second
		t.Errorf("a hundred questions of a stranger were %d transactions", counted.writes)
	}
	counted.fail = errors.New("locked")
	h.looked = h.looked.Add(-rememberLook)
	for _, from := range []string{"192.0.2.7:1000", "127.0.0.1:1000"} {
		if status, _ := ask(from); status != http.StatusServiceUnavailable {
			t.Errorf("from %s, when it cannot be written: %d", from, status)
		}
	}
}
