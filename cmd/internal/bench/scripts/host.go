package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// host is an agent's plugin host with the plugin lua, and a target that answers one line.
type host struct {
	*pluginhost.Host
	dir    string
	plugin pluginhost.Plugin
	target net.Listener
}

func newHost(bin string) (_ *host, err error) {
	dir, err := os.MkdirTemp("", "rbs")
	if err != nil {
		return nil, err
	}
	h := &host{dir: dir}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	files, _ := filepath.Glob(filepath.Join(bin, "plugins", script.Plugin+"@*"))
	if len(files) != 1 {
		return nil, fmt.Errorf("%d files of the plugin %s in %s/plugins: run make build first", len(files), script.Plugin, bin)
	}
	if h.plugin, err = pluginhost.ParsePlugin(filepath.Base(files[0])); err != nil {
		return nil, err
	}
	catalogue, err := pluginhost.NewCatalogue(filepath.Join(bin, "plugins"), []string{h.plugin.String()}, nil)
	if err != nil {
		return nil, err
	}
	if h.Host, err = pluginhost.New(pluginhost.Config{Dir: filepath.Join(dir, "run"), Catalogue: catalogue, Spare: h.plugin, Processes: 128}); err != nil {
		return nil, err
	}
	if h.target, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go h.serve()
	return h, nil
}

// serve answers each HTTP request with nothing.
func (h *host) serve() {
	for {
		c, err := h.target.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if line == "\r\n" {
					_, _ = c.Write([]byte("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"))
					return
				}
			}
		}()
	}
}

func (h *host) close() error {
	_ = h.target.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := h.Close(ctx)
	return joined(err, os.RemoveAll(h.dir))
}

func joined(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// run runs a script once, for a resource of a name.
func (h *host) run(ctx context.Context, text, resource string) error {
	address := h.target.Addr().String()
	got, err := h.Run(ctx, pluginhost.Scripted(h.plugin, []byte(text)), pluginhost.Job{Target: pluginhost.Target{
		Key: resource, Resource: sdk.Resource{Address: address, TLS: sdk.TLS{Mode: sdk.TLSOff}}, Allow: []string{address},
	}}, sdk.AfterRequest{Secret: sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("a-secret-of-the-bench"))}})
	if err == nil && got.Outcome != sdk.Changed {
		err = fmt.Errorf("the script answered %+v", got)
	}
	return err
}

// resident is the memory of each process of the plugin, in kB.
func (h *host) resident() (all []float64) {
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		f := map[string]string{}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			f[name] = strings.TrimSpace(value)
		}
		if f["PPid"] == strconv.Itoa(os.Getpid()) && strings.HasPrefix(f["Name"], script.Plugin) {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(f["VmRSS"], " kB"), 64)
			all = append(all, kb)
		}
	}
	return all
}
