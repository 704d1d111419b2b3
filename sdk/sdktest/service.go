// Package sdktest is a target in memory for a plugin's first test: a user service over
// HTTP that can do what targets do, good and bad.
//
//	POST   /users/NAME           {"password": "..."}                201 made, 409 exists            administrator
//	PUT    /users/NAME           {"password": "..."}                204 set                         administrator
//	PUT    /users/NAME/password  {"password": "...", "keep": true}  204 set; keep: others work on   administrator, or NAME
//	DELETE /users/NAME/password  {"password": "..."}                204 gone                        administrator, or NAME
//	DELETE /users/NAME                                              204 gone                        administrator
//	GET    /me                                                      200                             anybody who logs in
//	GET    /apps/NAME                                               200 there                       administrator
//	PUT    /apps/NAME            {"password": "..."}                204 it uses that from now on    administrator
//	PUT    /guests/NAME          {"password": "...",                204 there, 409 no guest         administrator
//	                              "groups": ["..."], "until": "..."} what is left out stays
//	DELETE /guests/NAME                                             204 gone, 409 no guest          administrator
//
// Users may have keys, too, which the service makes; a key logs in by its id and secret:
//
//	POST   /users/NAME/keys           201 {"id": "...", "secret": "..."}, 409 there are [MaxKeys]   administrator
//	GET    /users/NAME/keys?after=ID  200 {"keys": [{"id", "created", "active"}], "more": true}     administrator
//	PUT    /users/NAME/keys/ID        {"active": true}  204 set, 404 gone                           administrator
//	DELETE /users/NAME/keys/ID        204 gone, 404 gone before                                     administrator
//
// Everybody logs in by HTTP Basic. 401 is a wrong name or password, 403 somebody who is
// not the administrator, 404 no such user, 422 a password that the rules refuse, 423 a
// user who is locked.
package sdktest

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/rotunda-pam/rotunda/sdk"
)

// MinLength is the shortest password that the service's rules allow.
const MinLength = 12

// Admin is the administrator's name.
const Admin = "admin"

// Service is the user service: an [http.Handler].
type Service struct {
	mux http.ServeMux

	mu    sync.Mutex
	users map[string]*user
	keys  []*key                       // in the order in which they were made
	apps  map[string][sha256.Size]byte // what uses a password, and which
}

type user struct {
	passwords [][sha256.Size]byte // digests: a test service needs no more
	locked    bool
	guest     bool // made to be removed
	groups    []string
	until     string // RFC 3339, or empty; the service lets guests in after that, too
	failures  int
}

// New makes a service whose only user is the administrator.
func New(admin sdk.Secret) *Service {
	s := &Service{users: map[string]*user{Admin: {passwords: [][sha256.Size]byte{digest(admin)}}}, apps: map[string][sha256.Size]byte{}}
	s.serveKeys()
	s.mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(s.login(r, false)) })
	for pattern, change := range map[string]func(name string, u *user, in request) int{
		"POST /users/{name}": func(name string, u *user, in request) int {
			if u != nil {
				return http.StatusConflict
			}
			s.users[name] = &user{passwords: [][sha256.Size]byte{in.digest}}
			return http.StatusCreated
		},
		"PUT /users/{name}": func(_ string, u *user, in request) int {
			if u == nil {
				return http.StatusNotFound
			}
			u.passwords = [][sha256.Size]byte{in.digest}
			return http.StatusNoContent
		},
		"PUT /users/{name}/password": func(_ string, u *user, in request) int {
			if u == nil {
				return http.StatusNotFound
			}
			if !in.Keep {
				u.passwords = nil
			}
			if !slices.Contains(u.passwords, in.digest) {
				u.passwords = append(u.passwords, in.digest)
			}
			return http.StatusNoContent
		},
		"DELETE /users/{name}/password": func(_ string, u *user, in request) int {
			if u == nil {
				return http.StatusNotFound
			}
			u.passwords = slices.DeleteFunc(u.passwords, func(p [sha256.Size]byte) bool { return p == in.digest })
			return http.StatusNoContent
		},
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if name, _, _ := r.BasicAuth(); name == r.PathValue("name") && strings.HasSuffix(pattern, "/password") {
				w.WriteHeader(s.changeAs(r, false, change))
				return
			}
			w.WriteHeader(s.change(r, change))
		})
	}
	s.mux.HandleFunc("PUT /guests/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(s.change(r, func(name string, u *user, in request) int {
			if u != nil && !u.guest {
				return http.StatusConflict
			}
			made := &user{passwords: [][sha256.Size]byte{in.digest}, guest: true}
			if u != nil {
				made.groups, made.until = u.groups, u.until
			}
			if in.Groups != nil {
				made.groups = *in.Groups
			}
			if in.Until != nil {
				made.until = *in.Until
			}
			s.users[name] = made
			return http.StatusNoContent
		}))
	})
	s.mux.HandleFunc("DELETE /guests/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(s.change(r, func(name string, u *user, _ request) int {
			if u != nil && !u.guest {
				return http.StatusConflict
			}
			delete(s.users, name)
			return http.StatusNoContent
		}))
	})
	s.mux.HandleFunc("DELETE /users/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(s.change(r, func(name string, _ *user, _ request) int {
			delete(s.users, name)
			return http.StatusNoContent
		}))
	})
	s.mux.HandleFunc("GET /apps/{name}", func(w http.ResponseWriter, r *http.Request) {
		if status := s.login(r, true); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.apps[r.PathValue("name")]; !ok {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	s.mux.HandleFunc("PUT /apps/{name}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(s.change(r, func(name string, _ *user, in request) int {
			if _, ok := s.apps[name]; !ok {
				return http.StatusNotFound
			}
			s.apps[name] = in.digest
			return http.StatusNoContent
		}))
	})
	return s
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Add makes a user.
func (s *Service) Add(name string, password sdk.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = &user{passwords: [][sha256.Size]byte{digest(password)}}
}

// AddApp makes something that uses a password.
func (s *Service) AddApp(name string, password sdk.Secret) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[name] = digest(password)
}

// Uses tells whether an app uses a password.
func (s *Service) Uses(name string, password sdk.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[name] == digest(password)
}

// Guest is what a guest may do, and until when: RFC 3339, or empty.
func (s *Service) Guest(name string) (groups []string, until string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[name]; u != nil && u.guest {
		return u.groups, u.until
	}
	return nil, ""
}

// Lock has nobody log in as a user any more.
func (s *Service) Lock(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name].locked = true
}

// Failures is how many logins as a user have failed.
func (s *Service) Failures(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[name].failures
}

// Accepts tells whether a user is let in, and counts nothing.
func (s *Service) Accepts(name string, password sdk.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	return u != nil && !u.locked && slices.Contains(u.passwords, digest(password))
}

func digest(s sdk.Secret) [sha256.Size]byte {
	b := s.Expose()
	defer clear(b)
	return sha256.Sum256(b)
}

// login gives 200, or why the request's user is not let in.
func (s *Service) login(r *http.Request, admin bool) int {
	name, password, _ := r.BasicAuth()
	s.mu.Lock()
	defer s.mu.Unlock()
	u, given := s.users[name], sha256.Sum256([]byte(password))
	right := u != nil && slices.Contains(u.passwords, given)
	if k := s.key(name); k != nil {
		name, u, right = k.user, s.users[k.user], k.active && k.secret == given
	}
	switch {
	case u == nil:
		return http.StatusUnauthorized
	case u.locked:
		return http.StatusLocked
	case !right:
		u.failures++
		return http.StatusUnauthorized
	case admin && name != Admin:
		return http.StatusForbidden
	}
	return http.StatusOK
}

type request struct {
	Password string
	Keep     bool
	Groups   *[]string
	Until    *string
	digest   [sha256.Size]byte
}

func (s *Service) change(r *http.Request, change func(name string, u *user, in request) int) int {
	return s.changeAs(r, true, change)
}

func (s *Service) changeAs(r *http.Request, admin bool, change func(name string, u *user, in request) int) int {
	if status := s.login(r, admin); status != http.StatusOK {
		return status
	}
	var in request
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<10)).Decode(&in); err != nil {
		return http.StatusBadRequest
	}
	if len(in.Password) < MinLength && r.Method != http.MethodDelete {
		return http.StatusUnprocessableEntity
	}
	in.digest = sha256.Sum256([]byte(in.Password))
	name := r.PathValue("name")
	s.mu.Lock()
	defer s.mu.Unlock()
	return change(name, s.users[name], in)
}
