package targets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// SeaweedServer is a running SeaweedFS on 127.0.0.1, whose users have access keys for S3
// and which speaks IAM's protocol. Both are behind one address, by TLS: what is POSTed goes to
// IAM, the rest to S3. Its IAM believes whoever asks it; its S3 does not.
type SeaweedServer struct {
	Address  string         // host:port
	Admin    sdk.Credential // an access key
	SPKI     [sha256.Size]byte
	LogFile  string
	ca       string // file
	iam      string // http://host:port
	dir      string
	proc     *process
	front    *http.Server
	finished chan struct{} // closed when the front has ended
}

// StartSeaweedFS starts a SeaweedFS of its own in dir, which must be empty, absent or left
// over from an earlier one.
func StartSeaweedFS(ctx context.Context, dir string) (*SeaweedServer, error) {
	if !Installed(SeaweedFS) {
		return nil, fmt.Errorf("%w: SeaweedFS is not built yet, or curl not installed", ErrUnavailable)
	}
	if err := prepare(dir); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	s := &SeaweedServer{
		Admin: sdk.Credential{Kind: sdk.APIKey, ID: "admin" + randomHex(6), Secret: sdk.NewSecret([]byte(randomHex(16)))},
		SPKI:  cert.spki, LogFile: filepath.Join(dir, "seaweedfs.out"), ca: filepath.Join(dir, "ca.pem"), dir: dir,
	}
	if err := os.WriteFile(s.ca, cert.ca, 0o600); err != nil {
		return nil, fmt.Errorf("prepare SeaweedFS: %w", err)
	}
	for range 3 {
		if err = s.start(ctx, cert); !errors.Is(err, errEnded) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// seaweedPorts are those of its parts, beginning with the one given; each part has another
// one 10,000 above.
func seaweedPorts(first int) (args []string, s3, iam string) {
	names := []string{"-master.port", "-volume.port", "-filer.port", "-s3.port", "-iam.port"}
	for i, name := range names {
		args = append(args, fmt.Sprintf("%s=%d", name, first+i))
	}
	at := func(i int) string { return "127.0.0.1:" + strconv.Itoa(first+i) }
	return args, at(3), at(4)
}

func (s *SeaweedServer) start(ctx context.Context, cert certificate) error {
	program, err := built[SeaweedFS].program()
	if err != nil {
		return err
	}
	first, err := freeBlock(5)
	if err != nil {
		return err
	}
	data := filepath.Join(s.dir, "data")
	if err := errors.Join(os.RemoveAll(data), os.Mkdir(data, 0o700)); err != nil { // it knows its ports
		return fmt.Errorf("prepare SeaweedFS: %w", err)
	}
	ports, s3, iam := seaweedPorts(first)
	s.iam = "http://" + iam
	s.proc, err = start(s.dir, "seaweedfs", nil, append([]string{
		program, "server", "-dir=" + data, "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
		"-volume.max=20", "-master.volumeSizeLimitMB=8", "-filer", "-s3", "-iam",
	}, ports...)...)
	if err != nil {
		return err
	}
	master, filer := "127.0.0.1:"+strconv.Itoa(first), "127.0.0.1:"+strconv.Itoa(first+2)
	err = s.proc.ready(ctx, func(ctx context.Context) error { // after some twenty seconds
		for _, address := range []string{s3, iam} {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, s.proc.stop(os.Kill)), logTail(s.LogFile))
	}
	// IAM answers once the administrator is written down, and not before.
	err = s.proc.ready(ctx, func(ctx context.Context) error {
		line := fmt.Sprintf("s3.configure -access_key %s -secret_key %s -user admin -actions Admin,Read,Write,List,Tagging -apply\n", s.Admin.ID, s.Admin.Secret.ExposeString())
		if err := run(ctx, []byte(line), program, "shell", "-master="+master, "-filer="+filer); err != nil {
			return err
		}
		_, err := s.do(ctx, "ListUsers", nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, s.proc.stop(os.Kill)), logTail(s.LogFile))
	}
	if err := s.serve(cert, s3, iam); err != nil {
		return err
	}
	return s.proc.ready(ctx, func(ctx context.Context) error { // S3 hears of it a moment later
		ok, err := s.Accepts(ctx, s.Admin)
		if err == nil && !ok {
			err = errors.New("the administrator's key is not known yet")
		}
		return err
	})
}

// serve puts both behind one address. Signatures are over the name that the client has
// called, which is passed on as it is.
func (s *SeaweedServer) serve(cert certificate, s3, iam string) error {
	pair, err := tls.X509KeyPair(cert.cert, cert.key)
	if err != nil {
		return fmt.Errorf("start SeaweedFS's front: %w", err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return fmt.Errorf("start SeaweedFS's front: %w", err)
	}
	s.Address, s.finished = l.Addr().String(), make(chan struct{})
	s.front = &http.Server{
		ReadHeaderTimeout: starting,
		ErrorLog:          log.New(io.Discard, "", 0), // of connections that a test cuts
		Handler: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s3, r.In.Host
			if r.In.Method == http.MethodPost {
				r.Out.URL.Host = iam
			}
		}},
	}
	go func() { // ends with Stop
		defer close(s.finished)
		_ = s.front.Serve(l)
	}()
	return nil
}

// freeBlock finds ports that nobody uses, one after the other, with those 10,000 above.
func freeBlock(n int) (first int, err error) {
	for range 50 {
		first = 20_000 + rand.IntN(2_000) // those above are below the ports that the system gives out
		free := true
		for i := 0; i < n && free; i++ {
			for _, port := range []int{first + i, first + i + 10_000} {
				var l net.Listener
				if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err != nil {
					free = false
					break
				}
				l.Close()
			}
		}
		if free {
			return first, nil
		}
	}
	return 0, fmt.Errorf("find free ports: %w", err)
}

// Stop stops the server and removes its folder.
func (s *SeaweedServer) Stop() error {
	var err error
	if s.front != nil {
		err = s.front.Close()
		<-s.finished
	}
	return errors.Join(err, s.proc.stop(os.Kill), Clean(s.dir)) // asked to end it takes its time, and nothing is kept
}

// do asks for an action as nobody in particular.
func (s *SeaweedServer) do(ctx context.Context, action string, params url.Values) ([]byte, error) {
	if params == nil {
		params = url.Values{}
	}
	params.Set("Action", action)
	params.Set("Version", "2010-05-08")
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.iam, strings.NewReader(params.Encode()))
	if err != nil {
		return nil, fmt.Errorf("ask SeaweedFS: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask SeaweedFS: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("SeaweedFS answers %s: %s", resp.Status, tail(body, 300))
	}
	return body, err
}

// CreateUser makes a user who may list, with a first key that works.
func (s *SeaweedServer) CreateUser(ctx context.Context, name string) (sdk.Credential, error) {
	if _, err := s.do(ctx, "CreateUser", url.Values{"UserName": {name}}); err != nil {
		return sdk.Credential{}, err
	}
	policy, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{
		map[string]any{"Effect": "Allow", "Action": []string{"s3:Get*", "s3:List*"}, "Resource": []string{"arn:aws:s3:::*"}},
	}})
	if err != nil {
		return sdk.Credential{}, err
	}
	if _, err := s.do(ctx, "PutUserPolicy", url.Values{"UserName": {name}, "PolicyName": {"list"}, "PolicyDocument": {string(policy)}}); err != nil {
		return sdk.Credential{}, err
	}
	body, err := s.do(ctx, "CreateAccessKey", url.Values{"UserName": {name}})
	if err != nil {
		return sdk.Credential{}, err
	}
	var made struct {
		ID     string `xml:"CreateAccessKeyResult>AccessKey>AccessKeyId"`
		Secret string `xml:"CreateAccessKeyResult>AccessKey>SecretAccessKey"`
	}
	if err := xml.Unmarshal(body, &made); err != nil || made.ID == "" {
		return sdk.Credential{}, fmt.Errorf("SeaweedFS made no key (%w)", err)
	}
	c := sdk.Credential{Kind: sdk.APIKey, ID: made.ID, Secret: sdk.NewSecret([]byte(made.Secret))}
	for end := time.Now().Add(hung); ; time.Sleep(100 * time.Millisecond) { // S3 hears of it without a signal
		ok, err := s.Accepts(ctx, c)
		if err != nil || ok {
			return c, err
		}
		if time.Now().After(end) {
			return c, fmt.Errorf("SeaweedFS does not come to know the key that it made")
		}
	}
}

// KeyIDs lists a user's keys.
func (s *SeaweedServer) KeyIDs(ctx context.Context, name string) ([]string, error) {
	body, err := s.do(ctx, "ListAccessKeys", url.Values{"UserName": {name}})
	if err != nil {
		return nil, err
	}
	var list struct {
		IDs []string `xml:"ListAccessKeysResult>AccessKeyMetadata>member>AccessKeyId"`
	}
	if err := xml.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read SeaweedFS's list of keys: %w", err)
	}
	return list.IDs, nil
}

// Accepts tells whether S3 lets a key in. It asks curl, so that the judge shares no code
// with what is judged.
func (s *SeaweedServer) Accepts(ctx context.Context, c sdk.Credential) (bool, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/curl", "-sS", "--config", "-")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(fmt.Sprintf("url = \"https://%s/\"\ncacert = %q\naws-sigv4 = \"aws:amz:us-east-1:s3\"\nuser = \"%s:%s\"\nwrite-out = \"\\n%%{http_code}\"\nmax-time = 10\n", s.Address, s.ca, c.ID, c.Secret.ExposeString()))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return false, fmt.Errorf("ask curl: %w: %s", err, tail(stderr.Bytes(), 300))
	}
	switch {
	case bytes.HasSuffix(out, []byte("\n200")):
		return true, nil
	case bytes.Contains(out, []byte("SignatureDoesNotMatch")), bytes.Contains(out, []byte("InvalidAccessKeyId")):
		return false, nil
	}
	return false, fmt.Errorf("S3 of SeaweedFS answers %s", tail(out, 300))
}
