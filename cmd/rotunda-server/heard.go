package main

import (
	"bytes"
	"io"
	"net/http"

	"github.com/rotunda-pam/rotunda/internal/fault"
)

// heard lets a test see what this server is sent, as its operator sees it: behind TLS,
// with HTTP/2's headers unpacked. In a build without fault points it is not there.
func heard(h http.Handler) http.Handler {
	if !fault.Built {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var head bytes.Buffer
		head.WriteString(r.Method + " " + r.Host + " " + r.RequestURI + "\n")
		_ = r.Header.Write(&head) // a buffer takes all
		fault.Heard("request", head.Bytes())
		if r.Body != nil && r.Body != http.NoBody {
			body := &heardBody{ReadCloser: r.Body}
			defer body.tell()
			listened := *r
			listened.Body = body
			r = &listened
		}
		h.ServeHTTP(w, r)
	})
}

// heardBody tells what was read of a body, once it is over.
type heardBody struct {
	io.ReadCloser
	said bytes.Buffer
}

func (b *heardBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.said.Write(p[:n])
	if err != nil {
		b.tell()
	}
	return n, err
}

func (b *heardBody) tell() {
	if b.said.Len() > 0 {
		fault.Heard("body", b.said.Bytes())
		b.said.Reset()
	}
}
