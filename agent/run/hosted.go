package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/rotunda-pam/rotunda/agent/local"
	"github.com/rotunda-pam/rotunda/agent/pluginhost"
	"github.com/rotunda-pam/rotunda/internal/record"
	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/script"
)

// hosted is a script in a place where a statement names it, checked: the plugin lua runs it.
type hosted struct {
	use       *trustv1.ScriptUse
	by        *trust.Statement // that names it: its signer approved the script
	statement *trust.Statement // the script's own; nil: it was not found
	manifest  *script.Manifest // nil: it is not the script that was approved
	text      []byte
	values    map[string]any // its parameters
	records   []further
	account   trust.Ref // that it is run for; zero: none
	stopped   stopped

	plugin pluginhost.Plugin
	job    pluginhost.Job // of a script that runs after a rotation
	err    error          // why it cannot run
}

// String names it in errors and texts.
func (h *hosted) String() string {
	if h.statement == nil {
		return fmt.Sprintf("script %s", mustRef(h.use.Script))
	}
	s := h.statement.GetScript()
	if h.manifest == nil { // its author's word alone
		return fmt.Sprintf("script %q", cut(s.Name, 64))
	}
	return strings.TrimSuffix(fmt.Sprintf("script %s %s", s.Name, s.Version), " ")
}

// digest tells a use from every other: of another script, text, order, with other parameters
// or records.
func (h *hosted) digest() seal.Digest {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(h.use)
	if err != nil { // never: it was decoded
		return seal.Digest{}
	}
	return seal.Hash(b)
}

// findScript opens a script's record and holds it against the use that was approved, and
// opens what it works with besides. Nothing is dialled. Where it fails, what was found comes
// with the error.
func (e *Engine) findScript(ctx context.Context, served *servedRecords, by *trust.Statement, use *trustv1.ScriptUse, kind script.Kind, parameters []byte, pool seal.ID) (*hosted, error) {
	h := &hosted{use: use, by: by}
	if by.GetAccount() != nil {
		h.account = by.Ref
	}
	ref := mustRef(use.Script)
	if err := served.need(ctx, ref); err != nil {
		return h, fmt.Errorf("%s: %w", h, err)
	}
	rec, err := served.record(ref, trustv1.RecordKind_RECORD_KIND_SCRIPT)
	if err != nil {
		return h, fmt.Errorf("%s: %w", h, err)
	}
	h.statement = rec.Statement
	if err := h.check(rec.Data, kind); err != nil {
		return h, err
	}
	if err := e.Policy.Permit("script"); err != nil {
		return h, &trust.Error{Reason: trust.LocalPolicy, What: h.String(), Err: err}
	}
	if h.values, err = h.manifest.Values(parameters); err != nil {
		return h, err
	}
	at, err := h.manifest.Bind(use.RecordNames)
	if err != nil {
		return h, h.invalid("script.records", "%v", err)
	}
	for n, as := range h.manifest.Records {
		f, err := e.findFurther(ctx, served, by, as, mustRef(use.Records[at[n]]), pool)
		if err != nil {
			return h, fmt.Errorf("%s: record %s: %w", h, as.Name, err)
		}
		h.records = append(h.records, f)
	}
	return h, nil
}

// check holds the file against the use that was approved and against the script's own
// statement, and the manifest in it against that.
func (h *hosted) check(data []byte, kind script.Kind) error {
	rec, err := record.Parse(data)
	if err != nil {
		return &trust.Error{Reason: trust.RecordCorrupt, What: h.String(), Err: err}
	}
	h.text, _ = rec.Text(record.ScriptText)
	s, sum := h.statement.GetScript(), sha256.Sum256(h.text)
	changed := func(what string) error {
		return &trust.Error{Reason: trust.ScriptChanged, What: fmt.Sprintf("%s: %s", h, what)}
	}
	switch {
	case !bytes.Equal(h.use.Sha256, s.Sha256):
		return changed("its statement is of another file than the one that was approved here")
	case !bytes.Equal(h.use.Sha256, sum[:]):
		return changed("its file is not the one that was approved here")
	}
	m, err := script.Parse(h.text)
	if err != nil {
		return h.invalid("script", "%v", err)
	}
	comment := sha256.Sum256(m.Comment)
	switch {
	case !bytes.Equal(s.ManifestSha256, comment[:]):
		return changed("its manifest is not the one that its statement names")
	case m.Name != s.Name || m.Version != s.Version || string(m.Kind) != s.ScriptKind:
		return changed("its name, version or kind is not the one of its statement")
	case m.Kind != kind:
		return h.invalid("script.kind", "it is of kind %s, and is named where a %s stands", m.Kind, kind)
	}
	h.manifest = m
	return nil
}

func (h *hosted) invalid(reason, format string, args ...any) error {
	return &sdk.Error{Class: sdk.ClassInvalid, Reason: reason, NotSent: true, Err: fmt.Errorf("%s: %s", h, fmt.Sprintf(format, args...))}
}

// mayHave says whether who approved a script may himself read and use a login that it gets
// besides: else he would have it by his script.
func mayHave(log *trust.Log, by *trust.Statement, as string, ref trust.Ref) error {
	const needs = trust.Read | trust.Operate
	if has := log.Roles(by.Signer.ID, ref.Folder); !has.Has(needs) {
		return &trust.Error{Reason: trust.NotLinked, What: fmt.Sprintf("a script of %s gets %s as %s, which needs %s there; device %q, which approved it, has %s", by.Ref, ref, as, needs, log.FullName(by.Signer), has)}
	}
	return nil
}

// mayHaveLogins is mayHave of all that a resource is logged in to with: its administrator,
// who has to be there, and the further secrets that it names.
func mayHaveLogins(log *trust.Log, by, resource *trust.Statement) error {
	r := resource.GetResource()
	admin := mustRef(r.AdminAccount)
	if admin.IsZero() {
		return &sdk.Error{Class: sdk.ClassInvalid, Reason: "administrator.none", NotSent: true, Err: errors.New("the script works as the administrator of its resource, which names none")}
	}
	if err := mayHave(log, by, "administrator", admin); err != nil {
		return err
	}
	for _, x := range r.Extras {
		if x.Name == trust.JumpExtra { // this agent's, and no script's
			continue
		}
		if err := mayHave(log, by, "extra "+x.Name, mustRef(x.Account)); err != nil {
			return err
		}
	}
	return nil
}

// further is a further record that a script works with: a resource with its administrator,
// or an account where it logs in.
type further struct {
	script.Record
	resource *trust.Statement
	login    trust.Ref // whose secret the script gets
	way      way
	got      sdk.Record // once it is opened
}

func (e *Engine) findFurther(ctx context.Context, served *servedRecords, by *trust.Statement, as script.Record, ref trust.Ref, pool seal.ID) (f further, err error) {
	f = further{Record: as, login: ref}
	at := ref
	if as.As == script.AsAccount {
		account, err := e.findLinked(ctx, served, ref, trustv1.RecordKind_RECORD_KIND_ACCOUNT, pool)
		if err != nil {
			return f, err
		}
		at = mustRef(account.GetAccount().GetResource())
	}
	if f.resource, err = e.findLinked(ctx, served, at, trustv1.RecordKind_RECORD_KIND_RESOURCE, pool); err != nil {
		return f, err
	}
	if as.As == script.AsResource {
		if err := mayHaveLogins(served.log, by, f.resource); err != nil {
			return f, err
		}
		f.login = mustRef(f.resource.GetResource().GetAdminAccount())
	}
	f.way, err = e.findWay(ctx, served, f.resource, pool)
	return f, err
}

// findLinked opens the statement of a further record, whose own signer must have the right to
// name what it names; a resource must be of this agent's pool.
func (e *Engine) findLinked(ctx context.Context, served *servedRecords, ref trust.Ref, kind trustv1.RecordKind, pool seal.ID) (*trust.Statement, error) {
	if err := served.need(ctx, ref); err != nil {
		return nil, err
	}
	rec, err := served.record(ref, kind)
	if err != nil {
		return nil, err
	}
	if kind == trustv1.RecordKind_RECORD_KIND_RESOURCE && rec.Statement.Pool() != pool {
		return nil, &trust.Error{Reason: trust.WrongPool, What: fmt.Sprintf("resource %s is of another pool", ref)}
	}
	return rec.Statement, trust.CheckLinks(served.log, rec.Statement, pool)
}

// place is an address with who has to be there, and how it is reached.
type place struct {
	pins []byte
	tls  sdk.TLS
	way  way
}

// aim leads a target to where a script may go, and nowhere else: its resource, its further
// records and what its parameters say, each with the identity of its own record. t is aimed
// at the resource already; jump hosts may be asked for a key that is to be seen first.
func (e *Engine) aim(ctx context.Context, served *servedRecords, h *hosted, t *pluginhost.Target, w way, pool seal.ID) error {
	names := map[string]string{}
	for _, f := range h.records {
		names[f.Name] = addressOf(f.resource.GetResource())
	}
	allow, err := h.manifest.Places(t.Resource.Address, h.values, names)
	if err != nil {
		return fmt.Errorf("%s: %w", h, err)
	}
	pins := t.Pins[t.Resource.Address]
	t.Resource.Address = normal(t.Resource.Address)
	places := map[string]place{t.Resource.Address: {pins, t.Resource.TLS, w}}
	for n := range h.records {
		f := &h.records[n]
		address := normal(names[f.Name])
		f.got.Resource = sdk.Resource{Address: address, TLS: tlsOf(f.resource.GetResource().Tls)}
		if !slices.Contains(allow, address) {
			continue // it gets a login there, and does not go there
		}
		if err := e.openWay(ctx, served, &f.way, pool); err != nil {
			return fmt.Errorf("%s: record %s: %w", h, f.Name, err)
		}
		pins, err := e.pinsOf(ctx, f.resource, f.way.dial)
		if err != nil {
			return fmt.Errorf("%s: record %s: %w", h, f.Name, err)
		}
		one := place{pins, f.got.Resource.TLS, f.way}
		if known, ok := places[address]; ok && !known.same(one) {
			return h.invalid("script.identity", "two of its records are at %s, and say otherwise who has to be there, or how it is reached", address)
		}
		places[address] = one
		if len(pins) > 0 {
			f.got.Pins = map[string][]byte{address: pins}
		}
	}
	t.Allow, t.Pins, t.Way = allow, map[string][]byte{}, [32]byte{}
	ways := sha256.New()
	for _, address := range allow {
		at, ok := places[address]
		if !ok {
			continue
		}
		if len(at.pins) > 0 {
			t.Pins[address] = at.pins
		}
		fmt.Fprintf(ways, "%s %x\n", address, at.way.digest)
	}
	ways.Sum(t.Way[:0])
	t.Dial = dialPlaces(allow, places, e.Dial)
	t.Refused = func() { h.came("dial.refused") }
	t.Progress = nil // a script's steps are its own words, and go nowhere in clear
	if e.Local != nil {
		var put local.State
		if !h.account.IsZero() {
			put = scriptState{e, h.by.Ref, mustRef(h.use.Script), h.account}
		}
		t.Local = e.Local(h.manifest, h.values, put, h.came)
	}
	return nil
}

// maxLed is of the addresses to which names may have led a job: more are not dialled again.
const maxLed = 64

// dialPlaces reaches each place by its own way, and the addresses of a script's parameters,
// which have none, straight. Where one led is dialled again by drivers, to cancel a statement:
// it is reached as that one was, and not at all where two led there by different ways. Another
// machine may have the address that a jump host leads to.
func dialPlaces(allow []string, places map[string]place, straight pluginhost.DialFunc) pluginhost.DialFunc {
	named, led := map[string]*way{}, map[string]*way{}
	for _, address := range allow {
		named[normal(address)] = &way{dial: straight}
	}
	for address, at := range places {
		if at.way.dial != nil {
			named[address] = &at.way
		}
	}
	var mu sync.Mutex // of led
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		w := named[normal(address)]
		if w == nil {
			mu.Lock()
			w = led[normal(address)]
			mu.Unlock()
		}
		if w == nil {
			return nil, fmt.Errorf("dial %s: no place of this job led there, or two did", address)
		}
		c, err := w.dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		at := normal(c.RemoteAddr().String())
		other, known := led[at]
		switch {
		case known && other != w:
			led[at] = nil
		case len(led) < maxLed:
			led[at] = w
		}
		return c, nil
	}
}

func (p place) same(o place) bool {
	return bytes.Equal(p.pins, o.pins) && p.tls == o.tls && p.way.digest == o.way.digest
}

// normal is the one spelling of an address that places are compared by.
func normal(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(n, 10)
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), port)
}

// host is the plugin that runs the script, which says itself whether it can.
func (e *Engine) host(ctx context.Context, h *hosted) (pluginhost.Plugin, pluginhost.Description, error) {
	lua, err := e.Plugins.Find(script.Plugin)
	if err != nil {
		return pluginhost.Plugin{}, pluginhost.Description{}, &trust.Error{Reason: trust.PluginUnknown, What: script.Plugin, Err: err}
	}
	p := pluginhost.Scripted(lua, h.text)
	m, err := e.Plugins.Describe(ctx, p)
	if err != nil {
		h.failed(err)
		err = fmt.Errorf("%s: %w", h, err)
	}
	return p, m, err
}

func (h *hosted) wipe() {
	for _, f := range h.records {
		f.got.Secret.Secret.Wipe()
	}
}

// scripted are the scripts that a run uses, in whatever place.
func (t *target) scripted() (list []*hosted) {
	if t.rotator != nil {
		list = append(list, t.rotator)
	}
	for _, d := range t.uses {
		if d.script != nil {
			list = append(list, d.script)
		}
	}
	if t.makes != nil {
		list = append(list, t.makes)
	}
	return append(list, t.after...)
}

// hashes are of the files of all scripts that were found to be those that were approved,
// each once.
func (t *target) hashes() [][]byte {
	seen := map[string]bool{}
	for _, h := range t.scripted() {
		if h.manifest != nil {
			seen[string(h.use.Sha256)] = true
		}
	}
	var out [][]byte
	for _, sum := range slices.Sorted(maps.Keys(seen)) {
		out = append(out, []byte(sum))
	}
	return out
}
