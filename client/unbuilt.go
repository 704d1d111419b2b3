package client

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/rotunda-pam/rotunda/internal/enrol"
	"github.com/rotunda-pam/rotunda/internal/seal"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
)

// ---- profile ----

// InitOptions make an organisation.
type InitOptions struct {
	Server        string      // host:port
	CAPin         seal.Digest // SHA-256 of the server CA's public key info; zero: the system's authorities
	SetupCode     sdk.Secret
	Member        string // name of the first administrator
	Device        string // name of this device
	Passphrase    sdk.Secret
	KitPassphrase sdk.Secret
	MaxAgeDays    uint32 // of the log's freshness; 0: 180
	ClientVersion string
}

// Kit is the recovery kit. Both forms hold the same keys.
type Kit struct {
	File  []byte     // age file under the kit's passphrase
	Paper sdk.Secret // text to print: it is the keys in clear
}

// InitOrganisation makes the organisation's keys, its first two changes and
// this profile's device. The root key is in the kit alone when it returns.
func (p *Profile) InitOrganisation(ctx context.Context, o InitOptions) (Kit, error) {
	panic("unbuilt")
}

// JoinOptions make this profile a device of an existing organisation.
type JoinOptions struct {
	Token         sdk.Secret // rot1.…@host:port
	Passphrase    sdk.Secret
	ClientVersion string
}

// Join enrols this profile's device with a token.
func (p *Profile) Join(ctx context.Context, o JoinOptions) error { panic("unbuilt") }

// RecoverOptions make this profile an administrator's device again.
type RecoverOptions struct {
	Server        string
	CAPin         seal.Digest
	OrgID         seal.Digest // as printed on the kit; zero: the kit's own
	Kit           []byte      // the age file, or nil
	KitPassphrase sdk.Secret
	Paper         sdk.Secret // the paper's text, or empty
	Member        string     // existing member to give the device to; made when there is none of that name
	Device        string
	RemoveDevices []seal.ID // lost devices, removed in the same change
	Passphrase    sdk.Secret
	ClientVersion string
}

// Recover enrols this profile's device by the recovery kit.
func (p *Profile) Recover(ctx context.Context, o RecoverOptions) error { panic("unbuilt") }

// Me is the caller.
func (c *Client) Me(ctx context.Context) (Member, Device, error) { panic("unbuilt") }

// ---- directory ----

// Members lists people.
func (c *Client) Members(ctx context.Context) ([]Member, error) { panic("unbuilt") }

// Pending lists enrolments that wait.
func (c *Client) Pending(ctx context.Context) ([]PendingToken, error) { panic("unbuilt") }

// MemberSpec is a new member.
type MemberSpec struct {
	Name       string
	Roles      Roles         // on every folder and the organisation; usually none
	Device     string        // name of the first device
	ValidFor   time.Duration // of the token, 0: 24 h; at most 7 days
	Unattended bool          // folder keys travel in a blob under the token: see the warning in the manual
}

// NewToken is what an enrolment hands out.
type NewToken struct {
	ID       seal.ID
	Text     sdk.Secret
	NotAfter time.Time
	Member   seal.ID // of AddMember
}

// AddMember puts a member and makes the token for the first device.
func (c *Client) AddMember(ctx context.Context, s MemberSpec) (NewToken, error) { panic("unbuilt") }

// AddDevice makes a token for a further device: the caller's own, or, by an
// administrator, of the member given.
func (c *Client) AddDevice(ctx context.Context, s DeviceSpec) (NewToken, error) { panic("unbuilt") }

// DeviceSpec is a further device.
type DeviceSpec struct {
	Member     seal.ID // zero: the caller
	Name       string
	Roles      Roles // mask; zero: all that the signer may give
	ValidFor   time.Duration
	Unattended bool
}

// AgentSpec is a new agent.
type AgentSpec struct {
	Pool       string // name; made when there is none
	Name       string
	ValidFor   time.Duration
	Unattended bool
}

// AddAgent makes a token for an agent, and its pool when there is none of that name.
func (c *Client) AddAgent(ctx context.Context, s AgentSpec) (NewToken, error) { panic("unbuilt") }

// WaitEnrolled returns when the token's party has joined and holds the folder
// keys that it may have (this client seals them). ErrEnrolmentEnded, of class
// Failed, when the token ran out or was withdrawn.
func (c *Client) WaitEnrolled(ctx context.Context, id seal.ID) error { panic("unbuilt") }

// Removal is what a removal would do. Nothing is signed before Remove.
type Removal struct {
	ID         seal.ID
	Kind       trustv1.EntryKind
	Name       string
	Statements []RemovalRecord // signed by the removed one and current
	Values     []RemovalRecord // attested by the removed one
	Folders    []seal.ID       // that he could read: re-key them
}

// RemovalRecord is a record that a removal touches.
type RemovalRecord struct {
	Ref     Ref
	Title   string
	Aims    bool // its target or scripts changed since another person last signed: look before you sign anew
	Changes []string
	Stops   bool // nobody present can read or sign it: it will stop
}

// PlanRemoval looks at what the removal of a member, device, agent, pool, app or
// enrolment voids.
func (c *Client) PlanRemoval(ctx context.Context, id seal.ID) (*Removal, error) { panic("unbuilt") }

// Remove signs anew what the plan lists (except records in skip) and removes the entry.
func (c *Client) Remove(ctx context.Context, r *Removal, skip []Ref) error { panic("unbuilt") }

// Pools lists pools.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) { panic("unbuilt") }

// AddPool makes a pool.
func (c *Client) AddPool(ctx context.Context, name string) (Pool, error) { panic("unbuilt") }

// Agents lists agents with presence; pool zero: all.
func (c *Client) Agents(ctx context.Context, pool seal.ID) ([]Agent, error) { panic("unbuilt") }

// Find finds a live entry of one of the kinds by id (base64url) or by name; a
// name that two entries bear is a Conflict that lists them.
func (c *Client) Find(ctx context.Context, nameOrID string, kinds ...trustv1.EntryKind) (*trustv1.Entry, error) {
	panic("unbuilt")
}

// ---- rotation ----

// SetRotation signs the statement with its mandate, floors the former one and
// stores the schedule, in one transaction.
func (c *Client) SetRotation(ctx context.Context, s RotationSpec) error { panic("unbuilt") }

// RotationOf is an account's rotation, with the statement's mandate.
func (c *Client) RotationOf(ctx context.Context, account Ref) (Rotation, error) { panic("unbuilt") }

// Rotations lists rotations of a folder (zero: all).
func (c *Client) Rotations(ctx context.Context, folder seal.ID) iter.Seq2[Rotation, error] {
	panic("unbuilt")
}

// PauseRotation stops or resumes a schedule at the server. It is the server's
// honesty that keeps it: SetRotation without a schedule ends the mandate.
func (c *Client) PauseRotation(ctx context.Context, account Ref, paused bool) error {
	panic("unbuilt")
}

// Preview lists the next n firings (at most 100), computed here.
func Preview(s Schedule, after time.Time, n int) ([]time.Time, error) { panic("unbuilt") }

// ---- runs ----

// Rotate gives accounts new secrets, now. The outcomes are in the order of the accounts.
// The error is of the call as a whole; each Outcome has its own.
func (c *Client) Rotate(ctx context.Context, accounts []Ref, o RunOptions) ([]Outcome, error) {
	panic("unbuilt")
}

// Verify has an agent log in with the current values.
func (c *Client) Verify(ctx context.Context, accounts []Ref, o RunOptions) ([]Outcome, error) {
	panic("unbuilt")
}

// Test has an agent log in to a resource as its administrator and change nothing.
func (c *Client) Test(ctx context.Context, resource Ref, o RunOptions) (TestReply, error) {
	panic("unbuilt")
}

// Probe asks an agent for the target's TLS and host keys as it sees them.
func (c *Client) Probe(ctx context.Context, resource Ref, o RunOptions) (ProbeReply, error) {
	panic("unbuilt")
}

// Info asks an agent about itself.
func (c *Client) Info(ctx context.Context, agent seal.ID, o RunOptions) (InfoReply, error) {
	panic("unbuilt")
}

// Abandon asks for a run to be given up: the agent probes, and abandons the
// candidate only when the target rejects it. A run that no agent took is dropped.
func (c *Client) Abandon(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	panic("unbuilt")
}

// Wait follows a run to its end.
func (c *Client) Wait(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	panic("unbuilt")
}

// Retry starts a run again: a new rotate or verify of the same account.
func (c *Client) Retry(ctx context.Context, run seal.ID, o RunOptions) (Outcome, error) {
	panic("unbuilt")
}

// Runs lists runs, newest first, and the token of the next page.
func (c *Client) Runs(ctx context.Context, f RunFilter) ([]Run, string, error) { panic("unbuilt") }

// Run is one run with its verified results.
func (c *Client) Run(ctx context.Context, id seal.ID) (Run, error) { panic("unbuilt") }

// ---- events ----

// Events lists events, and the token of the next page.
func (c *Client) Events(ctx context.Context, f EventFilter) ([]Event, string, error) {
	panic("unbuilt")
}

// FollowEvents calls f with every event after a sequence number, for ever, until
// ctx ends or f fails. Negative: from now on.
func (c *Client) FollowEvents(ctx context.Context, after int64, names []string, f func(Event) error) error {
	panic("unbuilt")
}

// ---- log, plugins ----

// Log is the verified changes from an epoch on, at most limit (0: all).
func (c *Client) Log(ctx context.Context, from uint64, limit int) ([]Change, error) {
	panic("unbuilt")
}

// VerifyLog fetches the whole log anew, verifies it from change 0 and holds it
// against the profile's own.
func (c *Client) VerifyLog(ctx context.Context) (LogStatus, error) { panic("unbuilt") }

// LogStatus is the log's state.
func (c *Client) LogStatus(ctx context.Context) (LogStatus, error) { panic("unbuilt") }

// Policy is the organisation's policy.
func (c *Client) Policy(ctx context.Context) (*trustv1.Policy, error) { panic("unbuilt") }

// SetPolicy changes the policy.
func (c *Client) SetPolicy(ctx context.Context, p *trustv1.Policy) error { panic("unbuilt") }

// ApprovePlugin lets agents start plugin files of these hashes.
func (c *Client) ApprovePlugin(ctx context.Context, p ...Plugin) error { panic("unbuilt") }

// DropPlugin withdraws an approval.
func (c *Client) DropPlugin(ctx context.Context, sha256 seal.Digest) error { panic("unbuilt") }

// Plugins lists approved plugin files.
func (c *Client) Plugins(ctx context.Context) ([]Plugin, error) { panic("unbuilt") }

var _ = enrol.Prefix
