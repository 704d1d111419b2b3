package targets

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// KubeServer is a running kube-apiserver with an etcd of its own, on 127.0.0.1, over TLS.
// There is no controller: what makes pods, fills Secrets or gives built-in roles their
// rights does not run.
type KubeServer struct {
	Host    string // 127.0.0.1
	Port    int
	Address string // host:port
	Admin   sdk.Secret
	CA      []byte            // PEM
	SPKI    [sha256.Size]byte // of the server's key, for pinning
	LogFile string

	dir        string
	etcd, peer int // ports
	client     *http.Client
	store, api *process
}

// StartKube starts a Kubernetes API of its own in dir, which must be empty, absent or left
// over from an earlier one.
func StartKube(ctx context.Context, dir string) (*KubeServer, error) {
	if !Installed(Kubernetes) {
		return nil, fmt.Errorf("%w: kube-apiserver is not built yet, or etcd-server not installed", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	signing, err := signingKey()
	if err != nil {
		return nil, err
	}
	k := &KubeServer{
		Host: "127.0.0.1", Admin: sdk.NewSecret([]byte(randomHex(16))), CA: cert.ca, SPKI: cert.spki,
		LogFile: filepath.Join(dir, "kube-apiserver.out"), dir: dir,
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert.ca)
	k.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
	tokens := fmt.Sprintf("%s,admin,admin,\"system:masters\"\n", k.Admin.ExposeString())
	for name, b := range map[string][]byte{
		"ca.pem": cert.ca, "server.crt": cert.cert, "server.key": cert.key, "sa.key": signing, "tokens": []byte(tokens),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, fmt.Errorf("prepare kube-apiserver: %w", err)
		}
	}
	err = onFreePort(func(port int) error {
		k.Port, k.Address = port, net.JoinHostPort(k.Host, strconv.Itoa(port))
		return onFreePort(func(etcd int) error {
			return onFreePort(func(peer int) error {
				k.etcd, k.peer = etcd, peer
				return k.Up(ctx)
			})
		})
	})
	if err != nil {
		return nil, errors.Join(err, k.Stop())
	}
	return k, nil
}

// signingKey is what the API signs the tokens of service accounts with.
func signingKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key) // of PKCS #8 it would read no public key
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// Up starts both again after Down, on the same ports with the same data.
func (k *KubeServer) Up(ctx context.Context) error {
	program, err := built[Kubernetes].program()
	if err != nil {
		return err
	}
	url := func(port int) string { return "http://" + net.JoinHostPort(k.Host, strconv.Itoa(port)) }
	in := func(name string) string { return filepath.Join(k.dir, name) }
	k.store, err = start(k.dir, "etcd", nil, "/usr/bin/etcd", "--data-dir="+in("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+url(k.etcd), "--advertise-client-urls="+url(k.etcd), "--listen-peer-urls="+url(k.peer),
		"--initial-advertise-peer-urls="+url(k.peer), "--initial-cluster=default="+url(k.peer))
	if err != nil {
		return err
	}
	err = k.store.ready(ctx, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(k.Host, strconv.Itoa(k.etcd)))
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, k.Down()), logTail(in("etcd.out")))
	}
	k.api, err = start(k.dir, "kube-apiserver", nil, program, "--etcd-servers="+url(k.etcd),
		"--bind-address="+k.Host, "--advertise-address="+k.Host, "--secure-port="+strconv.Itoa(k.Port), "--cert-dir="+in("certs"),
		"--tls-cert-file="+in("server.crt"), "--tls-private-key-file="+in("server.key"), "--token-auth-file="+in("tokens"),
		"--service-account-issuer=https://rotunda.test", "--service-account-key-file="+in("sa.key"), "--service-account-signing-key-file="+in("sa.key"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none")
	if err != nil {
		return errors.Join(err, k.Down())
	}
	err = k.api.ready(ctx, func(ctx context.Context) error {
		status, _, err := k.Do(ctx, "GET", "/readyz", nil)
		if err == nil && status != http.StatusOK {
			return fmt.Errorf("it is not ready: status %d", status)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, k.Down()), logTail(k.LogFile))
	}
	return nil
}

// Down stops both and waits for their end; the data stays.
func (k *KubeServer) Down() error {
	err := errors.Join(k.api.stop(terminate), k.store.stop(terminate))
	k.api, k.store = nil, nil
	return err
}

// Stop stops both and removes their folder.
func (k *KubeServer) Stop() error { return errors.Join(k.Down(), Clean(k.dir)) }

// Do calls the API as somebody who may do everything, and gives the status and what was
// answered.
func (k *KubeServer) Do(ctx context.Context, method, path string, body any) (int, []byte, error) {
	return k.as(ctx, k.Admin, method, path, body)
}

// Accepts tells whether the API knows whose a token is. It asks by a request that all who
// are known may make.
func (k *KubeServer) Accepts(ctx context.Context, token sdk.Secret) (bool, error) {
	status, answer, err := k.as(ctx, token, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]string{"verb": "get", "resource": "pods"}},
	})
	switch {
	case err != nil:
		return false, err
	case status == http.StatusCreated:
		return true, nil
	case status == http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("kube-apiserver answers %d: %s", status, tail(answer, 300))
}

func (k *KubeServer) as(ctx context.Context, token sdk.Secret, method, path string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, nil, fmt.Errorf("ask kube-apiserver: %w", err)
		}
		content = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+k.Address+path, content)
	if err != nil {
		return 0, nil, fmt.Errorf("ask kube-apiserver: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token.ExposeString())
	req.Header.Set("Content-Type", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask kube-apiserver: %w", err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("ask kube-apiserver: %w", err)
	}
	return resp.StatusCode, out, nil
}
