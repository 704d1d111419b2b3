package installation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ServerHealth is what the server's health endpoint tells.
type ServerHealth struct {
	OK      bool   `json:"ok"`
	Agents  int    `json:"agents"`
	Commits uint64 `json:"commits"` // durable writes of the database
	Writes  uint64 `json:"writes"`  // changes, which share durable writes
	Heap    int64  `json:"heap"`    // bytes of objects and stacks
}

// Health asks the server how it fares.
func (i *Installation) Health(ctx context.Context) (h ServerHealth, err error) {
	config, err := i.TLS()
	if err != nil {
		return h, err
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	body, err := get(ctx, &http.Client{Transport: transport}, "https://"+i.Addr+"/healthz")
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(body, &h)
}

// TLS trusts the server's authority.
func (i *Installation) TLS() (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(i.Dir, "server", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the server's ca.crt holds no certificate")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// Metrics is what the agent counts: samples by name, labels included as in the text
// that the agent serves.
func (a *Agent) Metrics(ctx context.Context) (map[string]float64, error) {
	body, err := get(ctx, http.DefaultClient, "http://"+a.health+"/metrics")
	if err != nil {
		return nil, err
	}
	samples := map[string]float64{}
	for line := range strings.Lines(string(body)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "#" {
			continue
		}
		if samples[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("the agent's metric %s: %w", name, err)
		}
	}
	return samples, nil
}

func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, r.Status, body)
	}
	return body, err
}
