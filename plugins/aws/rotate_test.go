package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/sdk"
)

func hostOf(s *iamServer) sdk.Host {
	return sdk.Host{
		Dialer: new(net.Dialer), Log: slog.New(slog.DiscardHandler), Progress: func(string) {},
		Pins: map[string][]byte{s.Listener.Addr().String(): s.spki[:]},
	}
}

func openAs(t *testing.T, s *iamServer, settings string, admin sdk.Credential) (*session, error) {
	t.Helper()
	opened, err := rotator{}.Open(t.Context(), sdk.OpenRequest{Host: hostOf(s), Resource: s.resource(settings), Admin: admin, AdminAs: sdk.Account{Name: "admin"}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { opened.Close() })
	return opened.(*session), nil
}

func reasonOf(err error) (sdk.Class, string) {
	var e *sdk.Error
	if !errors.As(err, &e) {
		return "", ""
	}
	return e.Class, e.Reason
}

// What a login says, by each way to try a key.
func TestVerify(t *testing.T) {
	for _, by := range []string{"iam", "sts", "s3"} {
		settings := triedBy(by)
		for name, c := range map[string]struct {
			set  func(*iamServer, *sdk.Credential)
			want sdk.VerifyResponse
		}{
			"right":                           {func(s *iamServer, _ *sdk.Credential) { s.users["app"].reads = true }, sdk.VerifyResponse{Verdict: sdk.Accepted}},
			"right, of a user without rights": {func(*iamServer, *sdk.Credential) {}, sdk.VerifyResponse{Verdict: sdk.Accepted}},
			"wrong":                           {func(_ *iamServer, c *sdk.Credential) { c.Secret = sdk.NewSecret([]byte("wrong")) }, sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}},
			"deleted":                         {func(s *iamServer, c *sdk.Credential) { s.edit(c.ID, func(k *iamKey) { k.ended = time.Now() }) }, sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}},
			"switched off":                    {func(s *iamServer, c *sdk.Credential) { s.edit(c.ID, func(k *iamKey) { k.active = false }) }, sdk.VerifyResponse{Verdict: sdk.Rejected, Reason: "bad_secret"}},
			"right, and the clocks differ":    {func(s *iamServer, _ *sdk.Credential) { s.skew = time.Hour }, sdk.VerifyResponse{Reason: "clock"}},
			"right, and the service is busy":  {func(s *iamServer, _ *sdk.Credential) { s.throttle = true }, sdk.VerifyResponse{Reason: "unreachable"}},
			"a record without the key's id":   {func(_ *iamServer, c *sdk.Credential) { c.ID = "" }, sdk.VerifyResponse{Reason: "key_id.missing"}},
			"a password":                      {func(_ *iamServer, c *sdk.Credential) { c.Kind = sdk.Password }, sdk.VerifyResponse{Reason: "no_login"}},
		} {
			s := newIAM(t)
			s.add("app", &iamUser{})
			c0 := s.key("app")
			c.set(s, &c0)
			got, err := rotator{}.Verify(t.Context(), sdk.VerifyRequest{Host: hostOf(s), Resource: s.resource(settings), Account: sdk.Account{Name: "app"}, Credential: c0})
			if err != nil || got != c.want {
				t.Errorf("%s, %s: %+v, %v; want %+v", by, name, got, err, c.want)
			}
		}
	}
	// A key of another user opens the service, and is not the account's.
	for _, by := range []string{"iam", "sts"} {
		s := newIAM(t)
		s.add("other", &iamUser{reads: true})
		got, err := rotator{}.Verify(t.Context(), sdk.VerifyRequest{Host: hostOf(s), Resource: s.resource(triedBy(by)), Account: sdk.Account{Name: "app"}, Credential: s.key("other")})
		if err != nil || got != (sdk.VerifyResponse{Reason: "key.other_account"}) {
			t.Errorf("another user's key, %s: %+v, %v", by, got, err)
		}
	}
}

// Who it was, by what IAM and STS answer.
func TestUserOf(t *testing.T) {
	sts := func(arn string) string {
		return `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>` + arn + `</Arn><UserId>X</UserId><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`
	}
	for body, want := range map[string]string{
		`<GetUserResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><GetUserResult><User><UserName>app</UserName></User></GetUserResult></GetUserResponse>`: "app",
		sts("arn:aws:iam::123456789012:user/app"):                   "app",
		sts("arn:aws-cn:iam::123456789012:user/a/b/app@x"):          "app@x",
		sts("arn:aws:iam::123456789012:root"):                       "",
		sts("arn:aws:sts::123456789012:assumed-role/some-role/app"): "",
		sts("arn:aws:sts::123456789012:federated-user/app"):         "",
		sts(""): "",
		`text`:  "",
	} {
		if got := userOf([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

// triedBy are settings of a resource.
func triedBy(by string) string { return `{"region":"` + iamRegion + `","verify":"` + by + `"}` }

// A key that the account has not may be another user's: then it was not ended.
func TestRetireOfAnothers(t *testing.T) {
	for name, c := range map[string]struct {
		by, user string
		set      func(*iamServer, sdk.Credential)
		changed  bool
		class    sdk.Class
		reason   string
	}{
		"another's, who may look at himself": {"iam", "app", func(s *iamServer, _ sdk.Credential) { s.users["other"].reads = true }, false, sdk.ClassConflict, "key.other_account"},
		"another's, who may do nothing":      {"iam", "app", func(*iamServer, sdk.Credential) {}, false, sdk.ClassConflict, "key.other_account"},
		"another's, by sts":                  {"sts", "app", func(*iamServer, sdk.Credential) {}, false, sdk.ClassConflict, "key.other_account"},
		"another's, by s3":                   {"s3", "app", func(*iamServer, sdk.Credential) {}, false, sdk.ClassConflict, "key.other_account"},
		"of a user who has another name now": {"iam", "nobody", func(*iamServer, sdk.Credential) {}, false, sdk.ClassConflict, "key.other_account"},
		"gone":                               {"iam", "app", func(s *iamServer, c sdk.Credential) { s.edit(c.ID, func(k *iamKey) { k.ended = time.Now() }) }, true, "", ""},
		"gone, which not all machines know": {"iam", "app", func(s *iamServer, c sdk.Credential) {
			s.edit(c.ID, func(k *iamKey) { k.ended = time.Now().Add(time.Second / 2) })
		}, true, "", ""},
		"the account's, and switched off":     {"iam", "other", func(s *iamServer, c sdk.Credential) { s.edit(c.ID, func(k *iamKey) { k.active = false }) }, true, "", ""},
		"another's, but switched off already": {"iam", "app", func(s *iamServer, c sdk.Credential) { s.edit(c.ID, func(k *iamKey) { k.active = false }) }, true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newIAM(t)
			s.add("app", &iamUser{})
			s.add("other", &iamUser{})
			old := s.key("other")
			o, err := openAs(t, s, triedBy(c.by), s.key("admin"))
			if err != nil {
				t.Fatal(err)
			}
			c.set(s, old)
			out, err := o.Retire(t.Context(), sdk.RetireRequest{Account: sdk.Account{Name: c.user}, Keep: s.key("app"), Old: old})
			class, reason := reasonOf(err)
			if (out.Outcome == sdk.Changed) != c.changed || class != c.class || reason != c.reason {
				t.Errorf("%+v, %v; want %t, %s, %s", out, err, c.changed, c.class, c.reason)
			}
			if s.accepts(old) == c.changed {
				t.Errorf("it is accepted: %t", !c.changed)
			}
		})
	}
}

// untilDown is a line that goes down after so many connections.
type untilDown struct {
	net.Dialer
	left int
}

func (u *untilDown) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if u.left == 0 {
		return nil, &sdk.Error{Class: sdk.ClassUnreachable, Reason: "dial.unreachable", NotSent: true}
	}
	u.left--
	return u.Dialer.DialContext(ctx, network, address)
}

// What was sent is not said to be unsent, however little followed it.
func TestDownBetweenChanges(t *testing.T) {
	app := sdk.Account{Name: "app"}
	for name, verb := range map[string]func(*session, sdk.Credential, sdk.Credential) error{
		"retire": func(o *session, old, keep sdk.Credential) error {
			out, err := o.Retire(t.Context(), sdk.RetireRequest{Account: app, Keep: keep, Old: old})
			if out.Outcome != sdk.Unknown {
				t.Errorf("retire: outcome %d", out.Outcome)
			}
			return err
		},
		"sweep": func(o *session, one, two sdk.Credential) error {
			return o.Sweep(t.Context(), sdk.SweepRequest{Account: app, IDs: []string{one.ID, two.ID}})
		},
	} {
		for asked, unsent := range []bool{true, false} {
			s := newIAM(t)
			s.add("app", &iamUser{})
			o, err := openAs(t, s, "", s.key("admin"))
			if err != nil {
				t.Fatal(err)
			}
			o.host.Dialer = &untilDown{left: asked}
			var e *sdk.Error
			if err := verb(o, s.key("app"), s.key("app")); !errors.As(err, &e) || e.NotSent != unsent || e.Class != sdk.ClassUnreachable || e.Reason != "dial.unreachable" {
				t.Errorf("%s, down after %d requests: %v; want not sent %t", name, asked, err, unsent)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(*iamServer, *sdk.Credential)
		class  sdk.Class
		reason string
	}{
		"a password":            {func(_ *iamServer, c *sdk.Credential) { c.Kind = sdk.Password }, sdk.ClassInvalid, "key_id.missing"},
		"a key without an id":   {func(_ *iamServer, c *sdk.Credential) { c.ID = "" }, sdk.ClassInvalid, "key_id.missing"},
		"a wrong secret":        {func(_ *iamServer, c *sdk.Credential) { c.Secret = sdk.NewSecret([]byte("wrong")) }, sdk.ClassAuth, "admin.refused"},
		"clocks that differ":    {func(s *iamServer, _ *sdk.Credential) { s.skew = -time.Hour }, sdk.ClassUnreachable, "clock"},
		"a busy service":        {func(s *iamServer, _ *sdk.Credential) { s.throttle = true }, sdk.ClassUnreachable, "unreachable"},
		"another service's key": {func(s *iamServer, _ *sdk.Credential) { s.spki[0]++ }, sdk.ClassAuth, "target_identity"},
	} {
		s := newIAM(t)
		admin := s.key("admin")
		c.set(s, &admin)
		_, err := openAs(t, s, "", admin)
		if class, reason := reasonOf(err); class != c.class || reason != c.reason {
			t.Errorf("%s: %v; want %s, %s", name, err, c.class, c.reason)
		}
	}
}

// A whole rotation of a key, and in which order the service is asked.
func TestKey(t *testing.T) {
	s := newIAM(t)
	s.add("app", &iamUser{})
	first, app := s.key("app"), sdk.Account{Name: "app"}
	o, err := openAs(t, s, "", s.key("admin"))
	if err != nil {
		t.Fatal(err)
	}
	s.asked = nil
	second, err := o.Mint(t.Context(), sdk.MintRequest{Account: app, Kind: sdk.APIKey})
	if err != nil || !s.accepts(second) || !s.accepts(first) {
		t.Fatalf("mint: %q, %v", second.ID, err)
	}
	if items, err := o.List(t.Context(), sdk.ListRequest{Account: app}); err != nil || len(items) != 2 || !items[1].Active || time.Since(items[1].Created) > time.Minute {
		t.Errorf("list: %+v, %v", items, err)
	}
	_, err = o.Mint(t.Context(), sdk.MintRequest{Account: app, Kind: sdk.APIKey})
	if class, reason := reasonOf(err); class != sdk.ClassConflict || reason != "keys.full" || len(s.ids("app")) != 2 {
		t.Errorf("a third key: %v", err)
	}
	if out, err := o.Retire(t.Context(), sdk.RetireRequest{Account: app, Keep: second, Old: first}); err != nil || out.Outcome != sdk.Changed || s.accepts(first) || !s.accepts(second) {
		t.Errorf("retire: %+v, %v", out, err)
	}
	want := []string{"GetUser", "CreateAccessKey", "ListAccessKeys", "ListAccessKeys", "GetUser", "CreateAccessKey", "UpdateAccessKey", "DeleteAccessKey"}
	if !slices.Equal(s.asked, want) {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	// What cannot be told apart is not ended.
	for _, old := range []sdk.Credential{{Kind: sdk.APIKey}, second} {
		if out, err := o.Retire(t.Context(), sdk.RetireRequest{Account: app, Keep: second, Old: old}); err == nil || out.Outcome == sdk.Changed || !s.accepts(second) {
			t.Errorf("retire %q and keep %q: %+v, %v", old.ID, second.ID, out, err)
		}
	}
}

// A candidate that was switched off meanwhile is switched on; one that is gone never comes
// back.
func TestApplyKey(t *testing.T) {
	s := newIAM(t)
	s.add("app", &iamUser{})
	key, app := s.key("app"), sdk.Account{Name: "app"}
	o, err := openAs(t, s, "", s.key("admin"))
	if err != nil {
		t.Fatal(err)
	}
	apply := func() (sdk.ApplyResponse, error) {
		return o.Apply(t.Context(), sdk.ApplyRequest{Account: app, Candidate: key})
	}
	s.edit(key.ID, func(k *iamKey) { k.active = false })
	if out, err := apply(); err != nil || out.Outcome != sdk.Changed || !s.accepts(key) {
		t.Errorf("switched off: %+v, %v", out, err)
	}
	s.edit(key.ID, func(k *iamKey) { k.ended = time.Now() })
	if out, err := apply(); err != nil || out != (sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "key.gone"}) {
		t.Errorf("deleted: %+v, %v", out, err)
	}
	s.throttle = true
	if out, err := apply(); err == nil || out.Outcome != sdk.Unknown {
		t.Errorf("busy: %+v, %v", out, err)
	}
}

// A list that is not one is no list.
func TestListIsRead(t *testing.T) {
	s := newIAM(t)
	s.add("app", &iamUser{})
	o, err := openAs(t, s, "", s.key("admin"))
	if err != nil {
		t.Fatal(err)
	}
	for name, odd := range map[string]string{
		"cut":                      "<AccessKeyMetadata><member>",
		"truncated, and no marker": "<AccessKeyMetadata></AccessKeyMetadata><IsTruncated>true</IsTruncated>",
		"truncated for ever":       "<AccessKeyMetadata><member><AccessKeyId>x</AccessKeyId></member></AccessKeyMetadata><IsTruncated>true</IsTruncated><Marker>1</Marker>",
	} {
		s.odd = odd
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		items, err := o.List(ctx, sdk.ListRequest{Account: sdk.Account{Name: "app"}})
		cancel()
		if class, reason := reasonOf(err); items != nil || class != sdk.ClassUnreachable || reason != "service.answer" {
			t.Errorf("%s: %d keys, %v", name, len(items), err)
		}
	}
	// Without a name it would be the administrator's own.
	if items, err := o.List(t.Context(), sdk.ListRequest{}); items != nil || err == nil {
		t.Errorf("no name: %+v, %v", items, err)
	}
}

// Characters that IAM takes in a password, and those that it does not.
func TestPasswordCharacters(t *testing.T) {
	s := newIAM(t)
	s.add("app", &iamUser{console: true})
	o, err := openAs(t, s, "", s.key("admin"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]sdk.ApplyResponse{
		"plain & = + % /":   {Outcome: sdk.Changed},
		"tab\t line\r\nend": {Outcome: sdk.Changed},
		"Grüße und ÿ":       {Outcome: sdk.Changed},
		"with a zero \x00":  {Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "password.charset"},
		"with a key 鍵":      {Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "password.charset"},
		"\xff\xfe not text": {Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "password.charset"},
		"short":             {Outcome: sdk.Unchanged, Class: sdk.ClassPolicy, Reason: "policy.refused"},
	} {
		secret := sdk.NewSecret([]byte(text))
		out, err := o.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "app"}, Candidate: sdk.Credential{Kind: sdk.Password, Secret: secret}})
		if err != nil || out != want || (out.Outcome == sdk.Changed) != s.passwordIs("app", secret) {
			t.Errorf("%q: %+v, %v; want %+v", text, out, err, want)
		}
	}
	// A user without a console has no password.
	s.add("bare", &iamUser{})
	out, err := o.Apply(t.Context(), sdk.ApplyRequest{Account: sdk.Account{Name: "bare"}, Candidate: sdk.Credential{Kind: sdk.Password, Secret: sdk.NewSecret([]byte("long enough it is"))}})
	if err != nil || out != (sdk.ApplyResponse{Outcome: sdk.Unchanged, Class: sdk.ClassNotFound, Reason: "account.missing"}) {
		t.Errorf("no console: %+v, %v", out, err)
	}
}
