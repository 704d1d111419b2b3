package sdktest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// MaxKeys is how many keys a user may have.
const MaxKeys = 4

// pageOfKeys is how many are listed at once.
const pageOfKeys = 2

type key struct {
	id, user string
	secret   [sha256.Size]byte
	created  time.Time
	active   bool
}

// AddKey makes a key of a user, whatever room there is.
func (s *Service) AddKey(user string) (id string, secret sdk.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, text := s.makeKey(user)
	return id, sdk.NewSecret([]byte(text))
}

func (s *Service) makeKey(user string) (id, secret string) {
	id, secret = "key-"+strings.ToLower(rand.Text()[:12]), rand.Text()
	s.keys = append(s.keys, &key{id: id, user: user, secret: sha256.Sum256([]byte(secret)), created: time.Now().UTC(), active: true})
	return id, secret
}

// Keys lists the ids of a user's keys.
func (s *Service) Keys(user string) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keysOf(user) {
		ids = append(ids, k.id)
	}
	return ids
}

// AcceptsKey tells whether a key is let in, and counts nothing.
func (s *Service) AcceptsKey(id string, secret sdk.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.key(id)
	return k != nil && k.active && k.secret == digest(secret) && !s.users[k.user].locked
}

// key finds one. With the mutex held, like those below.
func (s *Service) key(id string) *key {
	if i := slices.IndexFunc(s.keys, func(k *key) bool { return k.id == id }); i >= 0 {
		return s.keys[i]
	}
	return nil
}

func (s *Service) keysOf(user string) (out []*key) {
	for _, k := range s.keys {
		if k.user == user {
			out = append(out, k)
		}
	}
	return out
}

func (s *Service) serveKeys() {
	for pattern, serve := range map[string]func(w http.ResponseWriter, r *http.Request, user string) int{
		"POST /users/{name}/keys": func(w http.ResponseWriter, _ *http.Request, user string) int {
			if len(s.keysOf(user)) >= MaxKeys {
				return http.StatusConflict
			}
			id, secret := s.makeKey(user)
			return answer(w, http.StatusCreated, map[string]string{"id": id, "secret": secret})
		},
		"GET /users/{name}/keys": func(w http.ResponseWriter, r *http.Request, user string) int {
			type item struct {
				ID      string    `json:"id"`
				Created time.Time `json:"created"`
				Active  bool      `json:"active"`
			}
			all, after := s.keysOf(user), r.URL.Query().Get("after")
			if i := slices.IndexFunc(all, func(k *key) bool { return k.id == after }); i >= 0 {
				all = all[i+1:]
			}
			page := struct {
				Keys []item `json:"keys"`
				More bool   `json:"more"`
			}{More: len(all) > pageOfKeys}
			for _, k := range all[:min(len(all), pageOfKeys)] {
				page.Keys = append(page.Keys, item{k.id, k.created, k.active})
			}
			return answer(w, http.StatusOK, page)
		},
		"PUT /users/{name}/keys/{id}": func(_ http.ResponseWriter, r *http.Request, user string) int {
			k := s.key(r.PathValue("id"))
			var in struct{ Active bool }
			switch {
			case k == nil || k.user != user:
				return http.StatusNotFound
			case json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<10)).Decode(&in) != nil:
				return http.StatusBadRequest
			}
			k.active = in.Active
			return http.StatusNoContent
		},
		"DELETE /users/{name}/keys/{id}": func(_ http.ResponseWriter, r *http.Request, user string) int {
			k := s.key(r.PathValue("id"))
			if k == nil || k.user != user {
				return http.StatusNotFound
			}
			s.keys = slices.DeleteFunc(s.keys, func(other *key) bool { return other == k })
			return http.StatusNoContent
		},
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if status := s.login(r, true); status != http.StatusOK {
				w.WriteHeader(status)
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			user := r.PathValue("name")
			if s.users[user] == nil {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if status := serve(w, r, user); status > 0 {
				w.WriteHeader(status)
			}
		})
	}
}

// answer writes a body, after which there is no more status to write.
func answer(w http.ResponseWriter, status int, body any) int {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked is gone
	return 0
}
