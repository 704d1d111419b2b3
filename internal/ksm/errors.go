package ksm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Further codes of the secrets-manager operations.
const (
	CodeKey         = "key" // the request was sealed to a key that is not the server's
	CodeUnavailable = "server_unavailable"
	CodeTooLarge    = "too_large"
)

// Error is a refusal: the server has understood the request and changed
// nothing. It is what a handler answers and what a client receives. Anything
// that is not an *Error leaves open whether the operation was done.
type Error struct {
	Status     int           // HTTP status
	Code       string        // stable code
	Message    string        // for people; holds no secret
	KeyID      int           // with CodeKey: the server's current key
	RetryAfter time.Duration // with CodeThrottled: in whole seconds
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// Is makes errors.Is compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Refuse makes the error of a code, with the status that belongs to it.
func Refuse(code, format string, args ...any) *Error {
	status := http.StatusBadRequest
	switch code {
	case CodeAccessDenied, CodeKey, CodeThrottled:
		status = http.StatusForbidden // also throttled: the SDKs look for it there
	case CodeEpochOld, CodeDigest, CodeNotStaged, CodeOutstanding, CodeRunUnknown, CodeNotLost:
		status = http.StatusConflict
	case CodeTooLarge:
		status = http.StatusRequestEntityTooLarge
	case CodeUnavailable:
		status = http.StatusServiceUnavailable
	}
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// wireError is the shape of 7.1. Every code is a string (an older SDK panics
// on another type) except the two that are numbers by contract.
type wireError struct {
	Path           string `json:"path"`
	AdditionalInfo string `json:"additional_info"`
	Location       string `json:"location"`
	Error          string `json:"error"`
	Message        string `json:"message"`
	KeyID          int    `json:"key_id,omitempty"`
	RetryAfter     int    `json:"retry_after,omitempty"`
}

// WriteError answers a refusal: plain JSON, since the client may not share a
// transmission key with us.
func WriteError(w http.ResponseWriter, path string, e *Error) {
	body := wireError{Path: path, Location: "rotunda", Error: e.Code, Message: e.Message, KeyID: e.KeyID}
	if e.Code == CodeThrottled {
		body.RetryAfter = max(1, int((e.RetryAfter+time.Second-1)/time.Second))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the client is gone, or it is not
}

// maxRetryAfter, in seconds, bounds how long a server may ask its client to stay away.
const maxRetryAfter = 3600

// readError reads a refusal from an answer that is not 200. Without a code of
// ours, or with a status of 500 and above, it is no refusal: a proxy or a
// broken server spoke, and nobody knows what was done.
func readError(status int, body []byte) *Error {
	var w wireError
	if json.Unmarshal(body, &w) != nil || w.Error == "" || status >= 500 {
		return nil
	}
	return &Error{
		Status: status, Code: w.Error, Message: w.Message, KeyID: w.KeyID,
		RetryAfter: time.Duration(min(max(w.RetryAfter, 0), maxRetryAfter)) * time.Second,
	}
}
