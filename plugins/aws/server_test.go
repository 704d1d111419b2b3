package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

// iamServer speaks as much of the protocol of IAM, STS and S3 as the plugin uses, by the
// documentation and by what AWS answers. It checks signatures by code of its own.
type iamServer struct {
	*httptest.Server
	spki [32]byte

	mu       sync.Mutex
	users    map[string]*iamUser
	keys     []*iamKey
	delay    time.Duration // until a key that was made, or deleted, is known to be so
	skew     time.Duration // of its clock
	throttle bool
	odd      string // answered to ListAccessKeys in place of a list
	asked    []string
}

type iamUser struct {
	admin    bool
	reads    bool // itself
	console  bool // has a login profile
	password string
}

type iamKey struct {
	id, secret, user string
	active           bool
	created          time.Time
	known, ended     time.Time // ended zero: lives
}

const (
	iamMaxKeys     = 2 // as AWS has it
	iamMinPassword = 10
	iamRegion      = "us-gov-west-1"
)

func newIAM(t *testing.T) *iamServer {
	t.Helper()
	s := &iamServer{users: map[string]*iamUser{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	s.spki = sha256.Sum256(s.Certificate().RawSubjectPublicKeyInfo)
	s.add("admin", &iamUser{admin: true})
	return s
}

func (s *iamServer) resource(settings string) sdk.Resource {
	if settings == "" {
		settings = `{"region":"` + iamRegion + `"}`
	}
	return sdk.Resource{Address: s.Listener.Addr().String(), TLS: sdk.TLS{Mode: sdk.TLSPin}, Config: []byte(settings)}
}

func (s *iamServer) add(name string, u *iamUser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = u
}

// key makes a key that is known at once.
func (s *iamServer) key(user string) sdk.Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return credentialOf(s.makeKey(user, 0))
}

func (s *iamServer) makeKey(user string, after time.Duration) *iamKey {
	k := &iamKey{id: "AKIA" + rand.Text()[:16], secret: rand.Text() + "/+" + rand.Text()[:12], user: user, active: true, created: time.Now().UTC().Truncate(time.Second)}
	k.known = time.Now().Add(after)
	s.keys = append(s.keys, k)
	return k
}

func credentialOf(k *iamKey) sdk.Credential {
	return sdk.Credential{Kind: sdk.APIKey, ID: k.id, Secret: sdk.NewSecret([]byte(k.secret))}
}

// edit changes a key, as a person does.
func (s *iamServer) edit(id string, f func(*iamKey)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.id == id {
			f(k)
		}
	}
}

// ids are of the keys that a user has, whether they are known yet or not.
func (s *iamServer) ids(user string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.keys {
		if k.user == user && k.ended.IsZero() {
			out = append(out, k.id)
		}
	}
	return out
}

// accepts tells whether a key is let in now.
func (s *iamServer) accepts(c sdk.Credential) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.find(c.ID)
	return k != nil && k.active && c.Secret.ExposeString() == k.secret
}

// find finds a key that is known to the service now.
func (s *iamServer) find(id string) *iamKey {
	now := time.Now()
	for _, k := range s.keys {
		if k.id == id && !now.Before(k.known) && (k.ended.IsZero() || now.Before(k.ended)) {
			return k
		}
	}
	return nil
}

func (s *iamServer) passwordIs(user string, secret sdk.Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[user]
	return u != nil && u.console && u.password == secret.ExposeString()
}

// iamError is an answer that is none of the good ones.
type iamError struct {
	status int
	code   string
}

func (s *iamServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	params, err := url.ParseQuery(string(body))
	if err != nil {
		http.Error(w, "", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Date", time.Now().Add(s.skew).UTC().Format(http.TimeFormat))
	action := params.Get("Action")
	s.asked = append(s.asked, action)
	answer, failed := s.serve(r, body, action, params)
	w.Header().Set("Content-Type", "text/xml")
	switch {
	case failed == nil:
		fmt.Fprintf(w, `<%[1]sResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></%[1]sResponse>`, action, answer)
	case r.Method == http.MethodGet: // S3
		w.WriteHeader(failed.status)
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>text</Message></Error>`, failed.code)
	default:
		w.WriteHeader(failed.status)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type><Code>%s</Code><Message>text</Message></Error></ErrorResponse>`, failed.code)
	}
}

var (
	errDenied  = &iamError{http.StatusForbidden, "AccessDenied"}
	errMissing = &iamError{http.StatusNotFound, "NoSuchEntity"}
	errName    = &iamError{http.StatusBadRequest, "ValidationError"}
	iamNames   = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
)

func (s *iamServer) serve(r *http.Request, body []byte, action string, params url.Values) (string, *iamError) {
	service := map[string]string{"GetCallerIdentity": "sts", "": "s3"}[action]
	if service == "" {
		service = "iam"
	}
	by, failed := s.signer(r, body, service)
	switch {
	case failed != nil:
		return "", failed
	case s.throttle:
		return "", &iamError{http.StatusBadRequest, "Throttling"}
	case service != "iam":
		if service == "s3" && r.Method != http.MethodGet {
			return "", &iamError{http.StatusMethodNotAllowed, "MethodNotAllowed"}
		}
		return "<Arn>arn:aws-us-gov:iam::1:user/apps/" + by.user + "</Arn><UserId>AIDA</UserId><Account>1</Account>", nil
	case params.Get("Version") != "2010-05-08":
		return "", errName
	}
	me, name := s.users[by.user], params.Get("UserName")
	if action == "GetUser" && name == "" {
		if !me.reads {
			return "", errDenied
		}
		return "<User><UserName>" + by.user + "</UserName></User>", nil
	}
	u := s.users[name]
	switch {
	case !me.admin:
		return "", errDenied
	case !iamNames.MatchString(name):
		return "", errName
	case u == nil:
		return "", errMissing
	}
	switch action {
	case "GetUser":
		return "<User><UserName>" + name + "</UserName></User>", nil
	case "CreateAccessKey":
		if len(s.living(name)) >= iamMaxKeys {
			return "", &iamError{http.StatusConflict, "LimitExceeded"}
		}
		k := s.makeKey(name, s.delay)
		return "<AccessKey><UserName>" + name + "</UserName><AccessKeyId>" + k.id + "</AccessKeyId><Status>Active</Status><SecretAccessKey>" + k.secret + "</SecretAccessKey></AccessKey>", nil
	case "ListAccessKeys":
		if s.odd != "" {
			return s.odd, nil
		}
		return s.page(name, params.Get("Marker")), nil
	case "UpdateAccessKey", "DeleteAccessKey":
		keys := s.living(name)
		i := slices.IndexFunc(keys, func(k *iamKey) bool { return k.id == params.Get("AccessKeyId") })
		if i < 0 {
			return "", errMissing
		}
		if action == "DeleteAccessKey" {
			keys[i].ended = time.Now().Add(s.delay)
		} else {
			keys[i].active = params.Get("Status") == "Active"
		}
		return "", nil
	case "UpdateLoginProfile":
		switch password := params.Get("Password"); {
		case !u.console:
			return "", errMissing
		case len(password) < iamMinPassword:
			return "", &iamError{http.StatusBadRequest, "PasswordPolicyViolation"}
		case params.Get("PasswordResetRequired") != "false":
			return "", errName
		default:
			u.password = password
		}
		return "", nil
	}
	return "", &iamError{http.StatusBadRequest, "InvalidAction"}
}

// living are the keys that a user has.
func (s *iamServer) living(user string) (out []*iamKey) {
	for _, k := range s.keys {
		if k.user == user && k.ended.IsZero() {
			out = append(out, k)
		}
	}
	return out
}

// page is a list of one key, those that are known now.
func (s *iamServer) page(user, marker string) string {
	var known []*iamKey
	for _, k := range s.keys {
		if k.user == user && s.find(k.id) == k {
			known = append(known, k)
		}
	}
	from, _ := strconv.Atoi(marker)
	var b strings.Builder
	b.WriteString("<AccessKeyMetadata>")
	for _, k := range known[min(from, len(known)):min(from+1, len(known))] {
		status := "Inactive"
		if k.active {
			status = "Active"
		}
		fmt.Fprintf(&b, "<member><UserName>%s</UserName><AccessKeyId>%s</AccessKeyId><Status>%s</Status><CreateDate>%s</CreateDate></member>", user, k.id, status, k.created.Format(time.RFC3339))
	}
	more := from+1 < len(known)
	fmt.Fprintf(&b, "</AccessKeyMetadata><IsTruncated>%v</IsTruncated>", more)
	if more {
		fmt.Fprintf(&b, "<Marker>%d</Marker>", from+1)
	}
	return b.String()
}

var authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$`)

// signer proves who signed a request (Signature Version 4).
func (s *iamServer) signer(r *http.Request, body []byte, service string) (*iamKey, *iamError) {
	wrong := &iamError{http.StatusForbidden, "SignatureDoesNotMatch"}
	unknown := &iamError{http.StatusForbidden, "InvalidClientTokenId"}
	if service == "s3" {
		unknown.code = "InvalidAccessKeyId"
	}
	m := authorization.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return nil, &iamError{http.StatusForbidden, "MissingAuthenticationToken"}
	}
	id, day, region, signedFor, headers, signature := m[1], m[2], m[3], m[4], strings.Split(m[5], ";"), m[6]
	k := s.find(id)
	if k == nil || !k.active {
		return nil, unknown
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Sub(time.Now().Add(s.skew)).Abs() > 5*time.Minute || region != iamRegion || signedFor != service || !slices.Contains(headers, "host") {
		return nil, wrong
	}
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	for _, name := range headers {
		value := strings.TrimSpace(r.Header.Get(name))
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, value)
	}
	digest := sha256.Sum256(body)
	fmt.Fprintf(&canonical, "\n%s\n%x", m[5], digest)
	whole := sha256.Sum256([]byte(canonical.String()))
	key := []byte("AWS4" + k.secret)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = mac(key, part)
	}
	want := mac(key, fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s/%s/%s/aws4_request\n%x", r.Header.Get("X-Amz-Date"), day, region, service, whole))
	if got, err := hex.DecodeString(signature); err != nil || !hmac.Equal(got, want) {
		return nil, wrong
	}
	return k, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// Errors are read as IAM and S3 write them, and nothing else is.
func TestErrorCode(t *testing.T) {
	for body, want := range map[string]string{
		`<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type><Code>NoSuchEntity</Code></Error></ErrorResponse>`: "NoSuchEntity",
		`<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code><Message>m</Message></Error>`:                                     "InvalidAccessKeyId",
		`<html><body>502</body></html>`: "",
		`not xml`:                       "",
		``:                              "",
	} {
		if got := errorCode([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
