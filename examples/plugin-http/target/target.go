// Package target is a small user service over HTTP, for the manual's first plugin to
// rotate passwords on:
//
//	POST /users/NAME  {"password": "..."}   201 made, 409 exists           administrator
//	PUT  /users/NAME  {"password": "..."}   204 set, 404 no such user      administrator
//	GET  /me                                200                            anybody who logs in
//
// Everybody logs in by HTTP Basic; 401 is a wrong name or password, 403 not the
// administrator, 422 a password that its rules refuse. It keeps users in memory.
package target

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"sync"
)

// MinLength is the shortest password that the service's rules allow.
const MinLength = 12

// Admin is the administrator's name.
const Admin = "admin"

// Service is the user service.
type Service struct {
	mux http.ServeMux

	mu    sync.Mutex
	users map[string][sha256.Size]byte // digests: a test service needs no more
}

// New makes a service whose only user is the administrator.
func New(adminPassword []byte) *Service {
	s := &Service{users: map[string][sha256.Size]byte{Admin: sha256.Sum256(adminPassword)}}
	s.mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(s.login(r, false)) })
	s.mux.HandleFunc("POST /users/{name}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(s.put(r, true)) })
	s.mux.HandleFunc("PUT /users/{name}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(s.put(r, false)) })
	return s
}

func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// login gives 200, or why the request's user is not let in.
func (s *Service) login(r *http.Request, admin bool) int {
	name, password, _ := r.BasicAuth()
	given := sha256.Sum256([]byte(password))
	s.mu.Lock()
	want, known := s.users[name]
	s.mu.Unlock()
	switch {
	case !known || subtle.ConstantTimeCompare(given[:], want[:]) != 1:
		return http.StatusUnauthorized
	case admin && name != Admin:
		return http.StatusForbidden
	}
	return http.StatusOK
}

func (s *Service) put(r *http.Request, create bool) int {
	if status := s.login(r, true); status != http.StatusOK {
		return status
	}
	var in struct{ Password string }
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<10)).Decode(&in); err != nil {
		return http.StatusBadRequest
	}
	if len(in.Password) < MinLength {
		return http.StatusUnprocessableEntity
	}
	name := r.PathValue("name")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch _, exists := s.users[name]; {
	case create && exists:
		return http.StatusConflict
	case !create && !exists:
		return http.StatusNotFound
	}
	s.users[name] = sha256.Sum256([]byte(in.Password))
	if create {
		return http.StatusCreated
	}
	return http.StatusNoContent
}
