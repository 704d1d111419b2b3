package targets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// NginxServer is a running nginx on 127.0.0.1, which speaks clear HTTP: what is proven on
// it is what it reads.
type NginxServer struct {
	Host     string // 127.0.0.1
	Address  string // host:port
	URL      string
	Config   string // file
	Password string // file with logins and their hashes, for the location /private
	LogFile  string

	dir  string
	proc *process
}

const nginxProgram = "/usr/sbin/nginx"

// StartNginx starts an nginx of its own in dir, which must be empty, absent or left over
// from an earlier one.
func StartNginx(ctx context.Context, dir string) (*NginxServer, error) {
	if !exists(nginxProgram) {
		return nil, fmt.Errorf("%w: install nginx-light", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	n := &NginxServer{Host: "127.0.0.1", Config: in("nginx.conf"), Password: in("logins"), LogFile: in("error.log"), dir: dir}
	if err := os.WriteFile(n.Password, nil, 0o644); err != nil {
		return nil, fmt.Errorf("prepare nginx: %w", err)
	}
	err := onFreePort(func(port int) error {
		n.Address = net.JoinHostPort(n.Host, strconv.Itoa(port))
		n.URL = "http://" + n.Address
		if err := n.Configure("first"); err != nil {
			return err
		}
		var err error
		if n.proc, err = start(dir, "nginx", nil, nginxProgram, "-c", n.Config, "-g", "daemon off;"); err != nil {
			return err
		}
		return n.proc.ready(ctx, func(ctx context.Context) error {
			_, err := n.Get(ctx, "/")
			return err
		})
	})
	if err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

// Configure writes a configuration in which the server says a word; it is read at the next
// reload. An empty word makes one that nginx refuses.
func (n *NginxServer) Configure(word string) error {
	say := `return 200 "` + word + `";`
	if word == "" {
		say = "no such directive;"
	}
	conf := []string{
		"pid " + filepath.Join(n.dir, "nginx.running;"), "error_log " + n.LogFile + " info;", "worker_processes 1;", "events {}", "http {", "access_log off;",
		"client_body_temp_path " + filepath.Join(n.dir, "body;"), "proxy_temp_path " + filepath.Join(n.dir, "proxy;"), "fastcgi_temp_path " + filepath.Join(n.dir, "fastcgi;"),
		"uwsgi_temp_path " + filepath.Join(n.dir, "uwsgi;"), "scgi_temp_path " + filepath.Join(n.dir, "scgi;"), "root " + filepath.Join(n.dir, "none;"),
		"server {", "listen " + n.Address + ";", "location / { " + say + " }",
		"location /private { auth_basic private; auth_basic_user_file " + n.Password + "; try_files /none =204; }",
		"} }",
	}
	return os.WriteFile(n.Config, []byte(strings.Join(conf, "\n")+"\n"), 0o644)
}

// Get asks for a path and gives what was answered.
func (n *NginxServer) Get(ctx context.Context, path string) (string, error) {
	status, body, err := n.get(ctx, path, "", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("nginx answers with status %d", status)
	}
	return body, err
}

// Accepts tells whether the server lets a login in.
func (n *NginxServer) Accepts(ctx context.Context, login, password string) (bool, error) {
	status, _, err := n.get(ctx, "/private", login, password)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusNoContent:
		return true, nil
	case status == http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("nginx answers a login with status %d", status)
}

func (n *NginxServer) get(ctx context.Context, path, login, password string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+path, nil)
	if err != nil {
		return 0, "", err
	}
	if login != "" {
		req.SetBasicAuth(login, password)
	}
	t := &http.Transport{DisableKeepAlives: true}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b := make([]byte, 1024)
	size, _ := resp.Body.Read(b)
	return resp.StatusCode, string(b[:size]), nil
}

// Failures is how many logins the server has refused for their passwords.
func (n *NginxServer) Failures(login string) (int, error) {
	log, err := os.ReadFile(n.LogFile)
	return strings.Count(string(log), `user "`+login+`": password mismatch`), err
}

// Stop stops the server and removes its folder.
func (n *NginxServer) Stop() error {
	err := n.proc.stop(terminate)
	n.proc = nil
	return errors.Join(err, Clean(n.dir))
}
