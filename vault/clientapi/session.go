package clientapi

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/audit"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

const (
	sessionTime = 15 * time.Minute

	// In a minute: of one address many devices may come, since a whole site
	// can stand behind it.
	challengesOfAddress = 1200
	signInsOfAddress    = 600
	refusalsTold        = 60 // as events, of one entry
	notesOfEntry        = 600
)

var errSignIn = refuse(connect.CodeUnauthenticated, ReasonSignature,
	"check that the device is not removed, and that the address is the server's own name", "the sign-in does not hold")

// Challenge: see the service's definition.
func (s *service) Challenge(ctx context.Context, r *connect.Request[clientv1.ChallengeRequest]) (*connect.Response[clientv1.ChallengeResponse], error) {
	if !s.attempts.allow("challenge "+connOf(ctx).network(), challengesOfAddress, s.Now()) {
		return nil, throttled()
	}
	c, err := s.challenges.give(s.Now())
	if err != nil {
		return nil, err
	}
	answer := &clientv1.ChallengeResponse{Challenge: c[:], Host: s.Hosts[0]}
	if len(r.Msg.KeyId) == 0 {
		return connect.NewResponse(answer), nil
	}
	key, err := id("key id", r.Msg.KeyId)
	if err != nil {
		return nil, err
	}
	var late usedToken
	err = s.Store.Read(ctx, func(q *db.Queries) error {
		orgs, err := q.ListOrgs(ctx)
		if err != nil {
			return err
		}
		for _, o := range orgs {
			log, err := s.Directory.View(ctx, q, o.ID)
			if err != nil {
				return err
			}
			if e, ok := log.EntryByKey(key); ok {
				answer.OrgId, answer.EntryId = o.OrgID, e.ID.Bytes()
				return nil
			}
			if entry, used := log.EnrolUsed(key); used {
				late = usedToken{o.ID, entry}
			}
		}
		return nil
	})
	if err == nil && late.org != 0 && len(answer.EntryId) == 0 {
		err = s.tellUsed(ctx, late)
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(answer), nil
}

// usedToken is an enrolment whose token somebody brings a second time.
type usedToken struct {
	org   int64
	entry seal.ID
}

// tellUsed tells administrators that a token was brought a second time: whoever
// used it first may have stolen it. The key's id proves nothing, so it is told once a
// minute at most.
func (s *service) tellUsed(ctx context.Context, t usedToken) error {
	if !s.attempts.allow("used "+t.entry.String(), 1, s.Now()) {
		return nil
	}
	return s.Store.Write(ctx, func(q *db.Queries) error {
		return audit.Tell(ctx, q, s.Bus, audit.Event{
			Org: t.org, Name: audit.EnrolRefused, Reason: string(trust.EnrolUsed),
			Fields: map[string]string{"entry": t.entry.String(), "address": connOf(ctx).address()},
		})
	})
}

func throttled() error {
	return refuse(connect.CodeResourceExhausted, ReasonThrottled, "try again in a minute", "too many attempts")
}

// SignIn: see the service's definition.
func (s *service) SignIn(ctx context.Context, r *connect.Request[clientv1.SignInRequest]) (*connect.Response[clientv1.SignInResponse], error) {
	now, m, from := s.Now(), r.Msg, connOf(ctx)
	org, err := seal.DigestFrom(m.OrgId)
	if err != nil {
		return nil, malformed("organisation id: %v", err)
	}
	entry, err := id("entry id", m.EntryId)
	if err != nil {
		return nil, err
	}
	challenge, err := seal.DigestFrom(m.Challenge)
	if err != nil {
		return nil, malformed("challenge: %v", err)
	}
	// By where it comes from, never by the entry that it names: entry ids are no
	// secret, and whoever knew one could keep its owner out.
	if !s.attempts.allow("sign in "+from.network(), signInsOfAddress, now) {
		return nil, throttled()
	}
	if !s.challenges.take(challenge, now) {
		return nil, refuse(connect.CodeUnauthenticated, ReasonChallenge, "ask for a challenge and answer it within a minute", "the challenge is not one that waits for its answer")
	}
	exporter, err := exporterOf(from)
	if err != nil {
		return nil, err
	}

	var number int64
	var e trust.Entry
	var refused error // known entry, bad answer: an event, then the error
	err = s.Store.Read(ctx, func(q *db.Queries) (err error) {
		number, err = s.Directory.Number(ctx, q, org)
		if errors.Is(err, store.ErrNotFound) {
			return errSignIn // what is unknown and what is wrong look alike
		}
		if err != nil {
			return err
		}
		log, err := s.Directory.View(ctx, q, number)
		if err != nil {
			return err
		}
		e, refused = s.check(log, entry, challenge, exporter, m.Signature, now)
		if _, known := log.Entry(entry); refused != nil && !known {
			return errSignIn
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, s.signInRefused(ctx, number, entry, refused)
	}

	var bearer [32]byte
	if _, err := rand.Read(bearer[:]); err != nil {
		return nil, err
	}
	hash := seal.Hash(bearer[:])
	var expires time.Time
	err = s.Store.Write(ctx, func(q *db.Queries) error {
		expires = now.Add(sessionTime)
		if !e.NotAfter.IsZero() && e.NotAfter.Before(expires) {
			expires = e.NotAfter
		}
		enrolment := int64(0)
		if e.Kind == trustv1.EntryKind_ENTRY_KIND_ENROLMENT {
			enrolment = 1
		}
		if err := q.EndExpiredSessions(ctx, now.UnixMilli()); err != nil {
			return err
		}
		err = q.AddSession(ctx, db.AddSessionParams{BearerHash: hash[:], Org: number, EntryID: entry[:], Enrolment: enrolment, Expires: expires.UnixMilli()})
		if err != nil {
			return err
		}
		return audit.Tell(ctx, q, s.Bus, audit.Event{
			Org: number, Name: audit.SessionOpened, Actor: entry[:],
			Fields: map[string]string{"address": from.address(), "client_version": m.ClientVersion},
		})
	})
	if err != nil {
		return nil, err
	}
	s.attempts.forgive("sign in "+from.network(), "challenge "+from.network())
	return connect.NewResponse(&clientv1.SignInResponse{
		Bearer:  base64.RawURLEncoding.EncodeToString(bearer[:]),
		Expires: expires.UnixMilli(),
		Now:     now.UnixMilli(),
	}), nil
}

// signInRefused tells administrators of a known entry's bad answer, within bounds,
// and makes the caller's error of it.
func (s *service) signInRefused(ctx context.Context, org int64, entry seal.ID, refused error) error {
	if s.attempts.allow("refused "+entry.String(), refusalsTold, s.Now()) {
		err := s.Store.Write(ctx, func(q *db.Queries) error {
			return audit.Tell(ctx, q, s.Bus, audit.Event{
				Org: org, Name: audit.SessionRefused, Actor: entry[:], Reason: string(trust.ReasonOf(refused)),
				Fields: map[string]string{"address": connOf(ctx).address()},
			})
		})
		if err != nil {
			return err
		}
	}
	if trust.ReasonOf(refused) == trust.Expired {
		return refuse(connect.CodeUnauthenticated, ReasonExpired, "ask an administrator, or another device of yours, for a new token", "the device or enrolment is past its time")
	}
	return errSignIn
}

// check holds the answer against each name of this server. The recovery entry
// signs in with the root's key, whose only use this side of the log is to bring
// an administrator back.
func (s *service) check(log *trust.Log, entry seal.ID, challenge, exporter [32]byte, sig []byte, now time.Time) (trust.Entry, error) {
	if e, ok := log.Recovery(); ok && e.ID == entry {
		for _, host := range s.Hosts {
			if seal.VerifySession(log.Root(), seal.SessionInput(log.Org(), entry, host, challenge, exporter), sig) {
				return e, nil
			}
		}
		return trust.Entry{}, &trust.Error{Reason: trust.SignatureBad}
	}
	var first error
	for _, host := range s.Hosts {
		e, err := trust.CheckSession(log, entry, host, challenge, exporter, sig, now)
		if err == nil {
			return e, nil
		}
		if first == nil {
			first = err
		}
	}
	if e, ok := log.Entry(entry); ok && e.Expired(now) {
		return trust.Entry{}, &trust.Error{Reason: trust.Expired, Err: first}
	}
	return trust.Entry{}, first
}

// exporterOf is the secret of the connection's TLS that the answer is bound to.
func exporterOf(c conn) (out [32]byte, err error) {
	if c.tls == nil {
		return out, refuse(connect.CodeFailedPrecondition, ReasonSignature, "reach the server over TLS", "sign-ins are bound to a TLS connection")
	}
	b, err := c.tls.ExportKeyingMaterial(seal.SessionExporter, nil, len(out))
	if err != nil {
		return out, refuse(connect.CodeFailedPrecondition, ReasonSignature, "use TLS 1.3", "the connection gives no exporter")
	}
	copy(out[:], b)
	return out, nil
}

// id reads 16 bytes.
func id(what string, b []byte) (seal.ID, error) {
	i, err := seal.IDFrom(b)
	if err != nil {
		return seal.ID{}, malformed("%s: %v", what, err)
	}
	if i.IsZero() {
		return seal.ID{}, malformed("%s: it is zero", what)
	}
	return i, nil
}

// ref reads a reference to a record.
func ref(r *trustv1.Ref) (trust.Ref, error) {
	out, err := trust.RefFrom(r)
	if err != nil {
		return out, malformed("record: %v", err)
	}
	return out, nil
}

// setUp reports whether a code is the server's setup code.
func (s *service) setUp(code string) bool {
	if s.SetupCode == nil {
		return false
	}
	want := s.SetupCode()
	// Hashed first: then the comparison takes the same time for every length.
	return len(want) > 0 && seal.Hash([]byte(code)) == seal.Hash(want)
}

// CreateOrganisation: see the service's definition.
func (s *service) CreateOrganisation(ctx context.Context, r *connect.Request[clientv1.CreateOrganisationRequest]) (*connect.Response[clientv1.CreateOrganisationResponse], error) {
	if !s.attempts.allow("setup "+connOf(ctx).network(), 20, s.Now()) {
		return nil, throttled()
	}
	if !s.setUp(r.Msg.SetupCode) {
		return nil, refuse(connect.CodePermissionDenied, ReasonSetupCode, "the server's administrator has the code", "the setup code is not this server's")
	}
	if len(r.Msg.Changes) != 2 {
		return nil, malformed("an organisation begins with two changes, not %d", len(r.Msg.Changes))
	}
	var org seal.Digest
	err := s.Store.Write(ctx, func(q *db.Queries) error {
		number, log, err := s.Directory.Create(ctx, q, s.Version, r.Msg.Changes...)
		switch {
		case errors.Is(err, store.ErrExists):
			return refuse(connect.CodeAlreadyExists, ReasonExists, "", "the organisation is on this server already")
		case err != nil:
			return untrusted(err)
		}
		org = log.Org()
		for _, k := range r.Msg.Keys {
			entry, err := id("entry id", k.EntryId)
			if err != nil {
				return err
			}
			if err := s.Directory.PutKeys(ctx, q, number, log, entry, k.Keys); err != nil {
				return untrusted(err)
			}
		}
		for _, e := range log.Entries(trustv1.EntryKind_ENTRY_KIND_DEVICE, trustv1.EntryKind_ENTRY_KIND_RECOVERY) {
			if err := keysStored(ctx, q, number, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&clientv1.CreateOrganisationResponse{OrgId: org[:]}), nil
}

// untrusted makes an error of the log's checks one for the client.
func untrusted(err error) error {
	var e *trust.Error
	if !errors.As(err, &e) {
		return err
	}
	code := connect.CodeFailedPrecondition
	switch e.Reason {
	case trust.LogFork, trust.LogGap:
		code = connect.CodeAborted // another change came first: fetch, sign anew
	case trust.LogSigner, trust.NotAllowed, trust.SignerUnknown:
		code = connect.CodePermissionDenied
	case trust.Malformed, trust.UnknownField, trust.TooLarge, trust.SignatureBad:
		code = connect.CodeInvalidArgument
	}
	return refuse(code, string(e.Reason), e.Reason.Hint(), "%s", e.Error())
}

// keysStored requires that a new party's public keys are here: nobody could seal
// anything to it otherwise.
func keysStored(ctx context.Context, q *db.Queries, org int64, e trust.Entry) error {
	keys, err := q.EntryKeys(ctx, db.EntryKeysParams{Org: org, EntryID: e.ID[:]})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("keys of %s: %w", e.ID, err)
	}
	if err != nil || seal.Hash(keys) != e.KeysDigest {
		return refuse(connect.CodeFailedPrecondition, ReasonKeysMissing, "send the keys in the same call", "entry %s was put without its keys", e.ID)
	}
	return nil
}
