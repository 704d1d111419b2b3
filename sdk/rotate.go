package sdk

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
)

// Kind says what a credential's secret is.
type Kind string

// The kinds of credential.
const (
	Password    Kind = "password"
	SSHKey      Kind = "ssh_key"
	APIKey      Kind = "api_key"
	Token       Kind = "token"
	Certificate Kind = "certificate"
)

// Credential is one secret and what is public about it.
type Credential struct {
	Kind   Kind
	ID     string // the target's public name of it: key id, fingerprint; empty for a password
	Public []byte // public half of a key pair; what a Minter gave; empty for the others
	Secret Secret
}

// Account is a login on a target.
type Account struct {
	Name  string // as the target spells it; any bytes, never to be pasted into a command
	Scope string // host part, realm, database, DN base: what the plugin takes it for
	// Attrs are the agent's, and mostly nil: [PairAttr], [GroupsAttr], [UntilAttr]. An
	// account's statement has no place for a plugin's own.
	Attrs map[string]string
}

// Resource is the target on which accounts live.
type Resource struct {
	Address string          // host:port; the only address that the Dialer reaches, unless the resource names more
	Config  json.RawMessage // to be read with [DecodeConfig]
	TLS     TLS             // for targets that speak TLS; from the signed statement, never from Config
}

// Dialer is the only way out: the plugin's own network is empty.
//
// The agent resolves names, so hand it the name, never an address that you looked
// up. It dials tcp, tcp4 and tcp6, and only the addresses of the job; the
// connection's RemoteAddr is the target's and may be dialled again. At the call's
// deadline the agent closes every connection of the session.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Host is what the agent hands in with Open and Verify.
type Host struct {
	Dialer Dialer
	// Log is scrubbed of the job's secrets before a line leaves the process.
	Log *slog.Logger
	// Progress tells people who wait what is going on, in 64 bytes or less and without
	// secrets. It never blocks; steps that come too fast are dropped.
	Progress func(step string)
	// Pins are the keys that a target may show, by address: one or more SHA-256 digests,
	// one after the other, 32 bytes each, of the SubjectPublicKeyInfo (TLS) or of the host
	// key in wire format (SSH). A target that shows another key must not be sent anything
	// (WrongKeyIsAuth): that is class auth, reason target_identity. See [TLSConfig].
	Pins map[string][]byte
}

// Outcome of a change. The zero value is Unknown.
type Outcome uint8

// The outcomes.
const (
	Unknown   Outcome = iota // it may have happened: the agent finds out by Verify
	Changed                  // proven: the target took it
	Unchanged                // proven: the target did not take it; Class and Reason are set
)

// Verdict of a fresh login. The zero value is Undecided, which overwrites nothing.
type Verdict uint8

// The verdicts.
const (
	Undecided Verdict = iota
	Accepted
	Rejected
)

// OpenRequest opens an administrative session on a resource.
type OpenRequest struct {
	Host     Host
	Resource Resource
	Admin    Credential // for a self-rotating account: its own current credential
	AdminAs  Account
	Extra    map[string]Credential // further secrets that the resource's statement names
	Self     bool                  // the session changes the secret of AdminAs itself (SelfChange)
}

// ApplyRequest asks that the target accept Candidate for Account from now on.
type ApplyRequest struct {
	Account            Account
	Candidate, Current Credential // Current may be empty
}

// ApplyResponse tells what became of it. The zero value means not known.
type ApplyResponse struct {
	Outcome Outcome
	Class   Class  // with Unchanged: ClassPolicy means that this candidate will never be taken
	Reason  string // stable code, at most 64 bytes
}

// VerifyRequest asks for a fresh login.
type VerifyRequest struct {
	Host       Host
	Resource   Resource
	Account    Account
	Credential Credential
}

// VerifyResponse is the verdict. Reason is a stable code: bad_secret, expired,
// locked, disabled, no_login, throttled, unreachable, replicating, or the plugin's own.
type VerifyResponse struct {
	Verdict Verdict
	Reason  string
}

// RetireRequest ends Old. It must leave Keep and everything that it was not told of
// (RetireTouchesOnlyOld).
type RetireRequest struct {
	Account   Account
	Keep, Old Credential
}

// RetireResponse tells what became of Old: Changed means that it is gone.
type RetireResponse struct{ Outcome Outcome }

// Rotator changes and proves secrets. Every verb must do nothing on a cancelled
// context (CancelledHasNoEffect).
type Rotator interface {
	// Open must change nothing on the target (OpenIsReadOnly).
	Open(context.Context, OpenRequest) (Session, error)
	// Verify must log in afresh, never through a Session (VerifyIsFresh). It must say
	// Rejected only when the target judged this secret (RejectedIsProven); locked,
	// throttled and unreachable are Undecided. Where the target refuses a locked account as
	// it refuses a wrong secret, Verify asks the administrator of an open Session which it
	// was (LockedIsUndecided): the agent has one open where there is an administrator. Where
	// nobody can be asked it says Undecided, not_judged.
	Verify(context.Context, VerifyRequest) (VerifyResponse, error)
}

// Session serves many accounts; the agent calls at most Manifest.Concurrency verbs at
// once, which must not mix them up (ManyAtOnce). It outlives the call that opened it: only the Host of its OpenRequest may be
// kept, never that call's context.
type Session interface {
	// Apply must bring the target to accept Candidate for Account, and leave other accounts as
	// they are (FirstChange). It must be repeatable with the same Candidate (ApplyTwice), and
	// answer Unknown or an error when a sent change got no answer (LostReplyIsUnknown). With
	// Overlap it must leave Current working (OverlapKeepsCurrent). A candidate that the target
	// made works already: there Apply sees to it that it still does, and says ClassPolicy where
	// it is gone for good.
	Apply(context.Context, ApplyRequest) (ApplyResponse, error)
	// Close lets go of what the Session holds, and must leave the process's other Sessions as
	// they are (CloseTwice). It must be safe twice (CloseTwice): the SDK sees to that, and lets
	// no second call through to the plugin.
	Close() error
}

// Retirer is a Session that ends old secrets; declared by Manifest.Overlap.
type Retirer interface {
	// Retire must be a success when Old is gone already (RetireTwice).
	Retire(context.Context, RetireRequest) (RetireResponse, error)
}

// Readback is a Session that verifies without a login; declared by Manifest.Readback.
type Readback interface {
	// Readback must compare (ReadbackAgrees): what the target stores goes nowhere.
	Readback(context.Context, ApplyRequest) (VerifyResponse, error)
}
