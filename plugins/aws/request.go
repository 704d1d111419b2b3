package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/rotunda-pam/rotunda/sdk"
)

// service is a target: the query protocol of IAM, of which few actions are needed. AWS's
// own client would make and repeat requests by its rules; here each is made once.
type service struct {
	host     sdk.Host
	resource sdk.Resource
	config   Config
}

func newService(h sdk.Host, r sdk.Resource) (service, error) {
	s := service{host: h, resource: r}
	return s, sdk.DecodeConfig(r, &s.config)
}

// maxReply bounds what is read of an answer.
const maxReply = 1 << 20

// reply is what the service answered.
type reply struct {
	status int
	code   string // of an error
	late   bool   // by the service's clock the request was signed at another time
	body   []byte
}

// iam asks for an action, and reads its result into out (nil: there is none to read).
func (s service) iam(ctx context.Context, as sdk.Credential, action string, params url.Values, out any) error {
	params.Set("Action", action)
	params.Set("Version", "2010-05-08")
	r, err := s.send(ctx, as, "iam", http.MethodPost, params)
	if err != nil {
		return err
	}
	defer clear(r.body)
	if err := r.err(action); err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := xml.Unmarshal(r.body, out); err != nil {
		// The decoder quotes what it does not understand, which may be a new secret.
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.answer", Err: fmt.Errorf("the answer to %s is not what IAM gives", action)}
	}
	return nil
}

// send makes one signed request on a connection of its own: nothing is repeated, and no
// redirect followed.
func (s service) send(ctx context.Context, as sdk.Credential, service, method string, params url.Values) (r reply, err error) {
	secure, err := sdk.TLSConfig(s.host, s.resource)
	if err != nil {
		return r, err
	}
	scheme := "https://"
	if secure == nil { // the resource says --tls off
		scheme = "http://"
	}
	body := []byte(params.Encode())
	defer clear(body)
	sent := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }} // after the handshake
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, scheme+s.resource.Address+"/", bytes.NewReader(body))
	if err != nil {
		return r, &sdk.Error{Class: sdk.ClassInvalid, Reason: "address", NotSent: true, Err: err}
	}
	req.GetBody = nil // nobody can send it again
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	digest := sha256.Sum256(body)
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(digest[:]))
	keys := aws.Credentials{AccessKeyID: as.ID, SecretAccessKey: as.Secret.ExposeString()}
	signed := time.Now().UTC()
	if err := v4.NewSigner().SignHTTP(ctx, keys, req, hex.EncodeToString(digest[:]), service, s.config.Region, signed); err != nil {
		return r, &sdk.Error{Class: sdk.ClassInternal, Reason: "signature", NotSent: true, Err: err}
	}
	transport := &http.Transport{DialContext: s.host.Dialer.DialContext, TLSClientConfig: secure, DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		known := &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http"}
		errors.As(err, &known) // the dialer's word, or that of the TLS proof
		return r, &sdk.Error{Class: known.Class, Reason: known.Reason, NotSent: !sent, Err: err}
	}
	r.status, r.late = resp.StatusCode, skewed(resp.Header.Get("Date"), signed)
	r.body, err = io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return r, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "http", Err: err}
	}
	if r.status != http.StatusOK {
		r.code = errorCode(r.body)
	}
	return r, nil
}

// maxSkew is how far the clocks may be apart: the service allows five minutes, and
// answers what is signed at another time as it answers a wrong secret.
const maxSkew = 4 * time.Minute

func skewed(date string, signed time.Time) bool {
	at, err := http.ParseTime(date)
	return err != nil || at.Sub(signed).Abs() > maxSkew
}

// errorCode is the code of an error as IAM, STS or S3 write it.
func errorCode(body []byte) string {
	var e struct {
		Code  string // S3
		Error struct{ Code string }
	}
	if xml.Unmarshal(body, &e) != nil {
		return ""
	}
	if e.Error.Code != "" {
		return e.Error.Code
	}
	return e.Code
}

// refusals are the errors that say for certain that nothing was done. All others leave it
// open.
var refusals = map[string]struct {
	class  sdk.Class
	reason string
}{
	"AccessDenied":            {sdk.ClassPermission, "admin.rights"},
	"InvalidClientTokenId":    {sdk.ClassAuth, "admin.refused"},
	"InvalidAccessKeyId":      {sdk.ClassAuth, "admin.refused"},
	"SignatureDoesNotMatch":   {sdk.ClassAuth, "admin.refused"},
	"NoSuchEntity":            {sdk.ClassNotFound, "account.missing"},
	"LimitExceeded":           {sdk.ClassConflict, "keys.full"},
	"PasswordPolicyViolation": {sdk.ClassPolicy, "policy.refused"},
	"ValidationError":         {sdk.ClassInvalid, "account.name"},
	"InvalidInput":            {sdk.ClassInvalid, "account.name"},
	"NotImplemented":          {sdk.ClassUnsupported, "target.unsupported"},
}

// err is what the service's answer means; nil where it did what it was asked for.
func (r reply) err(action string) error {
	if r.status == http.StatusOK {
		return nil
	}
	said := fmt.Errorf("%s: status %d, %s", action, r.status, r.code)
	known, ok := refusals[r.code]
	switch {
	case ok && known.class == sdk.ClassAuth && r.late:
		return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "clock", Err: fmt.Errorf("%w: this machine's clock and the service's are too far apart", said)}
	case ok:
		return &sdk.Error{Class: known.class, Reason: known.reason, Err: said}
	}
	return &sdk.Error{Class: sdk.ClassUnreachable, Reason: "service.status", Err: said}
}

// isReason says whether an error has that reason.
func isReason(err error, reason string) bool {
	var e *sdk.Error
	return errors.As(err, &e) && e.Reason == reason
}
