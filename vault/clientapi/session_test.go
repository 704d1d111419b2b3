package clientapi_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	"github.com/rotunda-pam/rotunda/proto/rotunda/client/v1/clientv1connect"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/vault/directory/orgtest"
)

// rawConn is a client with one connection, whose exporter the test can see.
func (s *server) rawConn() (clientv1connect.VaultServiceClient, func(ctx context.Context) (context.Context, *[32]byte)) {
	h := s.http.Client()
	var exporter [32]byte
	trace := func(ctx context.Context) (context.Context, *[32]byte) {
		return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
			state := i.Conn.(*tls.Conn).ConnectionState()
			b, err := state.ExportKeyingMaterial(seal.SessionExporter, nil, 32)
			if err != nil {
				s.t.Error(err)
			}
			copy(exporter[:], b)
		}}), &exporter
	}
	return clientv1connect.NewVaultServiceClient(h, s.http.URL), trace
}

func TestSignIn(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	bob := o.Member(t, "Bob", trust.Read)
	gone := o.Member(t, "Gone", trust.Read)
	o.Change(t, trust.RemoveOp(gone.Owner))
	admin.catchUp()
	other := orgtest.New(t, time.Now)
	s.found(other)

	type attempt struct {
		org       seal.Digest
		entry     seal.ID
		key       *orgtest.Party
		host      string
		exporter  bool // of another connection
		challenge bool // another one
		twice     bool
		wait      time.Duration
	}
	for _, test := range []struct {
		name   string
		change func(a *attempt)
		reason string // empty: it holds
	}{
		{"honest", func(a *attempt) {}, ""},
		{"honest, by the server's other name", func(a *attempt) { a.host = "vault.example" }, ""},
		{"honest, in capitals", func(a *attempt) { a.host = "VAULT.example" }, ""},
		{"another host", func(a *attempt) { a.host = "evil.example" }, "signature_bad"},
		{"another connection's exporter", func(a *attempt) { a.exporter = true }, "signature_bad"},
		{"another key", func(a *attempt) { a.key = o.Admin }, "signature_bad"},
		{"another entry", func(a *attempt) { a.entry = o.Admin.ID }, "signature_bad"},
		{"a removed entry", func(a *attempt) { a.entry, a.key = gone.ID, gone }, "signature_bad"},
		{"an entry that never was", func(a *attempt) { a.entry = seal.NewID() }, "signature_bad"},
		{"another organisation", func(a *attempt) { a.org = other.ID }, "signature_bad"},
		{"an organisation that is not here", func(a *attempt) { a.org = seal.Hash([]byte("x")) }, "signature_bad"},
		{"a challenge that was not given", func(a *attempt) { a.challenge = true }, "challenge_unknown"},
		{"a challenge again", func(a *attempt) { a.twice = true }, "challenge_unknown"},
		{"a challenge after a minute", func(a *attempt) { a.wait = 61 * time.Second }, "challenge_unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := attempt{org: o.ID, entry: bob.ID, key: bob, host: "127.0.0.1"}
			test.change(&a)
			c, trace := s.rawConn()
			ctx, exporter := trace(t.Context())
			given, err := c.Challenge(ctx, connect.NewRequest(&clientv1.ChallengeRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if given.Msg.Host != "vault.example" {
				t.Errorf("host: got %q", given.Msg.Host)
			}
			challenge := [32]byte(given.Msg.Challenge)
			if a.challenge {
				challenge[0] ^= 1
			}
			secret := *exporter
			if a.exporter {
				secret = [32]byte(random(32))
			}
			s.wait(a.wait)
			defer s.wait(-a.wait)
			r := &clientv1.SignInRequest{
				OrgId: a.org.Bytes(), EntryId: a.entry.Bytes(), Challenge: challenge[:],
				Signature: seal.SignSession(a.key.Sign, seal.SessionInput(a.org, a.entry, a.host, challenge, secret)),
			}
			answer, err := c.SignIn(ctx, connect.NewRequest(r))
			if a.twice {
				ok(t, err)
				answer, err = c.SignIn(ctx, connect.NewRequest(r))
			}
			if test.reason != "" {
				refused(t, err, test.reason)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if left := time.UnixMilli(answer.Msg.Expires).Sub(time.UnixMilli(answer.Msg.Now)); left != 15*time.Minute {
				t.Errorf("session of %v", left)
			}
		})
	}
}

func TestExpiredDevice(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	s.wait(trust.MaxDeviceAge + time.Hour)
	c := s.dial()
	_, err := c.StartSession(t.Context(), admin.signer())
	refused(t, err, "expired")
}

func TestSessions(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	bob := o.Member(t, "Bob", trust.Read)
	admin.catchUp()
	get := func(c *client) error {
		_, err := c.GetLog(t.Context(), connect.NewRequest(&clientv1.GetLogRequest{}))
		return err
	}

	without := s.dial()
	_, err := without.GetLog(t.Context(), connect.NewRequest(&clientv1.GetLogRequest{}))
	refused(t, err, "session_ended")
	for _, header := range []string{"Bearer ", "Bearer " + string(make([]byte, 43)), "Basic eA==", "Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.http.URL+clientv1connect.VaultServiceGetLogProcedure, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header["Authorization"], r.Header["Content-Type"] = []string{header}, []string{"application/proto"}
		answer, err := s.http.Client().Do(r)
		if err != nil {
			continue // not a header at all
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: status %d", header, answer.StatusCode)
		}
	}

	c := s.signIn(o, bob)
	ok(t, get(c))
	s.wait(15*time.Minute + time.Second)
	refused(t, get(c), "session_ended")
	s.wait(-15*time.Minute - time.Second)

	c = s.signIn(o, bob)
	ok(t, get(c))
	o.Change(t, trust.RemoveOp(bob.ID))
	admin.catchUp()
	refused(t, get(c), "session_ended")
}

func TestCreateOrganisation(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	c := s.dial()
	create := func(code string, changes [][]byte, keys ...*clientv1.PutKeys) error {
		_, err := c.CreateOrganisation(t.Context(), connect.NewRequest(&clientv1.CreateOrganisationRequest{SetupCode: code, Changes: changes, Keys: keys}))
		return err
	}
	var keys []*clientv1.PutKeys
	for id, k := range o.Keys {
		keys = append(keys, &clientv1.PutKeys{EntryId: id.Bytes(), Keys: k})
	}
	refused(t, create("", o.Changes, keys...), "setup_code")
	refused(t, create("wrong", o.Changes, keys...), "setup_code")
	refused(t, create(setupCode, o.Changes[:1], keys...), "malformed")
	refused(t, create(setupCode, o.Changes), "keys_missing")
	other := orgtest.New(t, time.Now)
	refused(t, create(setupCode, [][]byte{o.Changes[0], other.Changes[1]}, keys...), "log_fork")
	ok(t, create(setupCode, o.Changes, keys...))
	refused(t, create(setupCode, o.Changes, keys...), "exists")
	s.signIn(o, o.Admin)
}

func TestRecoverySignsInWithTheRoot(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	s.found(o)
	recovery, _ := o.Log.Recovery()
	root := s.signIn(o, &orgtest.Party{ID: recovery.ID, Sign: o.Root})

	// The administrator's device is lost: the root removes it and puts another.
	fresh := orgtest.New(t, time.Now).Admin // a device's keys
	fresh.ID = seal.NewID()
	now := time.Now()
	change := o.Log.NewChange(seal.ID{}, now, trust.RemoveOp(o.Admin.ID), trust.PutOp(&trustv1.Entry{
		EntryId: fresh.ID.Bytes(), Kind: trustv1.EntryKind_ENTRY_KIND_DEVICE, Name: "new", OwnerId: o.Admin.Owner.Bytes(), V: trust.Version,
		SignPub: fresh.Sign.Public().(ed25519.PublicKey), KeysDigest: seal.Hash(fresh.Keys).Bytes(),
		NotAfter: now.Add(trust.MaxDeviceAge).UnixMilli(), Roles: uint32(trust.AllRoles),
	}))
	signed, _, err := trust.SignChange(o.ID, change, o.Root)
	if err != nil {
		t.Fatal(err)
	}
	root.must(root.write(appendOp(signed), putKeys(fresh.ID, fresh.Keys)))
	s.signIn(o, fresh)
	_, err = s.dial().StartSession(t.Context(), (&client{o: o, party: o.Admin}).signer())
	refused(t, err, "signature_bad")
}

func (c *client) signer() enrol.Signer {
	return enrol.Signer{OrgID: c.o.ID, EntryID: c.party.ID, Key: c.party.Sign}
}

func TestEnrolment(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	pool, folder := o.Pool(t, "pool"), o.Folder(t)
	o.Grant(t, folder, pool, trust.Read)
	attended := o.Enrolment(t, trustv1.EntryKind_ENTRY_KIND_AGENT, pool)
	e := o.Unattended(t, trustv1.EntryKind_ENTRY_KIND_AGENT, pool)
	admin.catchUp()
	blob := random(100)
	_, err := admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_PutEnrolBlob{PutEnrolBlob: &clientv1.PutEnrolBlob{EntryId: attended.Entry.ID.Bytes(), Blob: blob}}})
	refused(t, err, "not_allowed") // nobody would know what its holder can open
	admin.must(admin.write(&clientv1.WriteOp{Op: &clientv1.WriteOp_PutEnrolBlob{PutEnrolBlob: &clientv1.PutEnrolBlob{EntryId: e.Entry.ID.Bytes(), Blob: blob}}}))

	key := seal.EnrolSignKey(e.Seed)
	found, err := s.dial().Challenge(t.Context(), connect.NewRequest(&clientv1.ChallengeRequest{
		KeyId: seal.KeyID(seal.AlgEd25519, key.Public().(ed25519.PublicKey)).Bytes(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "organisation found by the token's key", found.Msg.OrgId, o.ID[:])
	equal(t, "entry found by the token's key", found.Msg.EntryId, e.Entry.ID[:])

	token := &orgtest.Party{ID: e.Entry.ID, Sign: key}
	c, thief := s.signIn(o, token), s.signIn(o, token)
	ctx := t.Context()
	_, err = c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{}))
	refused(t, err, "not_allowed")
	_, record := newRecord(folder, "pamUser")
	_, err = c.write(record)
	refused(t, err, "not_allowed")
	_, err = c.write(appendOp(o.Sign(t, o.Admin))) // another's, though good
	refused(t, err, "not_allowed")
	got, err := c.GetEnrolBlob(ctx, connect.NewRequest(&clientv1.GetEnrolBlobRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "blob", got.Msg.Blob, blob)

	agent, joined := o.Join(t, e)
	_, err = c.write(appendOp(joined))
	refused(t, err, "keys_missing")
	_, err = c.write(appendOp(joined), putKeys(agent.ID, agent.Keys), putFolderKey(folder, 1, o.Admin.ID))
	refused(t, err, "not_allowed")
	c.must(c.write(appendOp(joined), putKeys(agent.ID, agent.Keys), putFolderKey(folder, 1, agent.ID)))
	o.Add(t, joined)

	folders, err := c.ListFolders(ctx, connect.NewRequest(&clientv1.ListFoldersRequest{}))
	if err != nil || len(folders.Msg.Folders) != 1 || len(folders.Msg.Folders[0].SealedKey) == 0 {
		t.Errorf("the new agent's folders: %v, %v", folders, err)
	}
	_, err = c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{}))
	refused(t, err, "not_allowed") // its session stays one for enrolling
	_, err = c.write(appendOp(joined))
	refused(t, err, "enrol_used")
	_, err = thief.GetLog(ctx, connect.NewRequest(&clientv1.GetLogRequest{}))
	refused(t, err, "session_ended")
	_, err = s.dial().StartSession(ctx, enrol.Signer{OrgID: o.ID, EntryID: token.ID, Key: key})
	refused(t, err, "signature_bad")
}

// Failed sign-ins are counted by where they come from. Whoever knows an entry's id does
// not keep its owner out.
func TestSignInLimit(t *testing.T) {
	s, o := newServer(t), orgtest.New(t, time.Now)
	admin := s.found(o)
	honest := s.dial()
	in := func() error {
		_, err := honest.StartSession(t.Context(), admin.signer())
		return err
	}
	for range 70 { // a program that calls the command line in a loop
		ok(t, in())
	}

	elsewhere := s.dialFrom("127.0.0.2")
	challenge := func() []byte {
		given, err := elsewhere.Challenge(t.Context(), connect.NewRequest(&clientv1.ChallengeRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return given.Msg.Challenge
	}
	forged := func() []byte { return random(32) }
	for _, row := range []struct {
		name      string
		challenge func() []byte
		reason    string
	}{
		{"with a challenge of one's own", forged, "challenge_unknown"},
		{"with the server's", challenge, "signature_bad"},
	} {
		t.Run(row.name, func(t *testing.T) {
			as := func(c []byte) error {
				_, err := elsewhere.SignIn(t.Context(), connect.NewRequest(&clientv1.SignInRequest{
					OrgId: o.ID.Bytes(), EntryId: o.Admin.ID.Bytes(), Challenge: c, Signature: random(64),
				}))
				return err
			}
			for range 600 {
				refused(t, as(row.challenge()), row.reason)
			}
			refused(t, as(row.challenge()), "throttled")
			ok(t, in()) // who comes from there is kept out, and nobody else
			s.wait(time.Minute)
			refused(t, as(row.challenge()), row.reason)
			ok(t, in())
			s.wait(time.Minute)
		})
	}
	told, err := s.signIn(o, o.Admin).ListEvents(t.Context(), connect.NewRequest(&clientv1.ListEventsRequest{Names: []string{"session.refused"}, Page: &clientv1.Page{Size: 1000}}))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(told.Msg.Events); n != 61 { // at most 60 in the one minute, one in the next
		t.Errorf("%d refusals were told, want 61", n)
	}
}

// dialFrom is a client that comes from another address of this host.
func (s *server) dialFrom(address string) clientv1connect.VaultServiceClient {
	s.t.Helper()
	tr := s.http.Client().Transport.(*http.Transport).Clone()
	tr.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext
	s.t.Cleanup(tr.CloseIdleConnections)
	return clientv1connect.NewVaultServiceClient(&http.Client{Transport: tr}, s.http.URL)
}
