package script

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// places reads where the script goes, on the network and on the agent's host.
func (m *Manifest) places(t *table) {
	m.Hosts = t.list("hosts")
	for i, h := range m.Hosts {
		of, name, _ := strings.Cut(h, ".")
		switch {
		case h == "resource":
		case of == "parameters" && fieldRE.MatchString(name):
			p := m.Parameter(name)
			t.must(p != nil && (p.Type == Address || p.Type == URL), "hosts", fmt.Sprintf("has %q", h), "it must be a parameter of type address or url")
		case of == "records" && fieldRE.MatchString(name):
			t.must(slices.ContainsFunc(m.Records, func(r Record) bool { return r.Name == name }), "hosts", fmt.Sprintf("has %q", h), "there is no such record")
		default:
			a, err := address(h)
			t.must(err == nil, "hosts", fmt.Sprintf("has %q", h), `"resource", "parameters.NAME", "records.NAME", or an address such as "api.example.com:443"`)
			m.Hosts[i] = a
		}
	}
	m.Programs = t.list("programs")
	m.paths(t, "programs", m.Programs)
	t.must(len(m.Programs) == 0 || slices.Contains(m.Modules, "exec"), "programs", "are run by the module exec, which modules does not name", `add "exec"`)
	m.Files = t.list("files")
	m.paths(t, "files", m.Files)
	t.must(len(m.Files) == 0 || slices.Contains(m.Modules, "file"), "files", "are written by the module file, which modules does not name", `add "file"`)
}

// paths looks at paths of the agent's host.
func (m *Manifest) paths(t *table, key string, list []string) {
	for _, f := range list {
		name, ok := strings.CutPrefix(f, "parameters.")
		if p := m.Parameter(name); ok && fieldRE.MatchString(name) {
			t.must(p != nil && p.Type == String, key, fmt.Sprintf("has %q", f), "it must be a parameter of type string")
		} else {
			t.must(absolute(f), key, fmt.Sprintf("has %q", f), `write the whole path, without . and .., or "parameters.NAME"`)
		}
	}
}

var drive = regexp.MustCompile(`^[A-Za-z]:\\[^/]*$`)

// absolute says whether a path is whole and names one file in one way: on the agent's host,
// which need not be of this kind.
func absolute(p string) bool {
	if drive.MatchString(p) {
		return !slices.ContainsFunc(strings.Split(p[3:], `\`), func(s string) bool { return s == "" || s == "." || s == ".." })
	}
	return path.IsAbs(p) && path.Clean(p) == p && p != "/"
}

// Places are the addresses that a use of the script may reach: of its resource, of its
// parameters as Values gives them, and of its further records by name.
func (m *Manifest) Places(resource string, values map[string]any, records map[string]string) ([]string, error) {
	var out []string
	for _, h := range m.Hosts {
		of, name, _ := strings.Cut(h, ".")
		place, err := h, error(nil)
		switch {
		case h == "resource":
			place, err = address(resource)
		case of == "records" && fieldRE.MatchString(name):
			place, err = address(records[name])
		case of == "parameters" && fieldRE.MatchString(name):
			s, _ := values[name].(string)
			if m.Parameter(name).Type == URL {
				place, err = urlPlace(s)
			} else {
				place, err = address(s)
			}
		}
		if err != nil {
			return nil, wrong(fmt.Errorf("the script %s may reach %s, which has no address: %w", m.Name, h, err))
		}
		if !slices.Contains(out, place) {
			out = append(out, place)
		}
	}
	return out, nil
}

// Paths are the files that a use of the script may read and write, likewise.
func (m *Manifest) Paths(values map[string]any) ([]string, error) {
	return m.pathsOf(m.Files, "a file's", values)
}

// Commands are the programs that it may run.
func (m *Manifest) Commands(values map[string]any) ([]string, error) {
	return m.pathsOf(m.Programs, "a program's", values)
}

func (m *Manifest) pathsOf(list []string, what string, values map[string]any) ([]string, error) {
	var out []string
	for _, f := range list {
		if name, ok := strings.CutPrefix(f, "parameters."); ok {
			s, _ := values[name].(string)
			if !absolute(s) {
				return nil, wrong(fmt.Errorf("parameter %s of the script %s is %s path: write the whole one; . and .. have no place in it", name, m.Name, what))
			}
			f = s
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out, nil
}

// hostRE is of names as resolvers take them, with maxHost bytes at most.
var hostRE = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?$`)

const maxHost = 253

// address is the one spelling of host:port that the agent compares.
func address(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("want host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", errors.New("want host:port, the port from 1 to 65535")
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	} else if !hostRE.MatchString(host) || len(strings.TrimSuffix(host, ".")) > maxHost {
		return "", errors.New("want host:port, the host a name or an IP address")
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), strconv.FormatUint(n, 10)), nil
}

// ports of the schemes that a parameter of type url may have.
var ports = map[string]string{"http": "80", "https": "443", "ldap": "389", "ldaps": "636"}

// urlPlace is the address that a URL leads to.
func urlPlace(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxValue || !printable(s) || u.Opaque != "" || u.Fragment != "" {
		return "", errors.New("want a URL such as https://api.example.com/v1")
	}
	port, ok := ports[u.Scheme]
	if !ok {
		return "", errors.New("want a URL of http, https, ldap or ldaps")
	}
	if u.User != nil {
		return "", errors.New("a URL holds no login here: parameters are not secret")
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return address(net.JoinHostPort(u.Hostname(), port))
}
