package run

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rotunda-pam/rotunda/internal/trust"
	"github.com/rotunda-pam/rotunda/sdk"
	"github.com/rotunda-pam/rotunda/sdk/scrub"
)

// The reason of a result is told in clear: server and event log have it. What a script gives
// as one is its author's text, and may be a secret in another dress. So of a run that uses a
// script only reasons of this list are told; any other is ScriptRefused to everybody but the
// record's readers.

// ScriptRefused stands in place of a script's own word.
const ScriptRefused = "script.refused"

// plain are the reasons that Rotunda's own parts give, besides those of the checks.
var plain = strings.Fields(`
	abandoned access_denied account.ambiguous account.current account.exists account.expired account.groups
	account.half_made account.locked account.method account.missing account.name account.no_home account.nopass account.owns
	account.place account.refused account.retain account.scope account.until address admin.barred admin.dialogue admin.key admin.must_change
	admin.no_shell admin.not_root admin.outstanding admin.refused admin.rights admin.sudo administrator.kind
	administrator.none auth.method auth.switch bad_request bad_secret both_rejected cancelled candidate.rejected catalogue
	chpasswd.refused clock config connection database.missing deadline dependent.plugin dependents.failed
	dependents.pending dial dial.closed dial.limit dial.protocol dial.refused dial.timeout dial.unreachable
	dialogue.closed disabled draining expired file.folder file.lines file.missing file.unwritable former.unknown
	discover.malformed discoverer.none group.missing healed host_closed http http.json http.redirect http.scheme http.url internal jump.chain jump.forbidden
	jump.host_key jump.key jump.login jump.name jump.plugin jump.refused jump.unreachable key.elsewhere key.gone key.mismatch
	key.not_taken key.options key.other_account key.private key.public key.same key_id.missing keys.full keys.keep_missing
	keys.too_many keys.unwritable kind kube.clear kube.conflict kube.forbidden kube.missing kube.refused kube.status
	kube.unauthorized ldap.too_large local.lost locked login.other login.refused login_budget
	manifest.minted manifest.retire mint.not_new mint.unknown no_login not_judged nothing_outstanding object.changed
	orphan.ambiguous orphan.pending pair.draining pair.in_use pair.one_sided pair.unknown parameters password.charset
	path.not_found path.wrong plan.malformed plan.too_long plugin.unknown plugin_busy plugin_crashed plugin_deadline
	plugin_deaf plugin_manifest plugin_protocol plugin_start policy.charset policy.digest policy.history policy.impossible
	policy.length policy.old_password policy.quality policy.refused policy.too_soon probe readback.rights record.changed
	replicating reply.lost request retire.pending scram script script.discover script.error script.identity script.kind script.no_undo
	script.plan script.plugin script.records script.refused script.unclear scripts.failed scripts.none scripts.pending
	second_factor secret.charset secret.missing secret.refused secret_kind self server.recovering server.version
	server_unavailable service.answer service.status session.closed session.id session.nil session_closed sftp sftp.changed sftp.kind sftp.locked
	sftp.missing sftp.permission sftp.refused sftp.rename sftp.too_large signature sql.driver sql.login sql.redirect
	sql.too_large step.data target.busy target.failed target.kind target.protocol target.read_only target.referral
	target.refused target.single target.tls target.tools target.unsaved target.unsupported target.version test
	text.ambiguous text.edit text.key text.not_a_value text.shared text.unreadable text.value throttled tls.pin
	token.unlabelled unclassed undecided unreachable verb.dependents verb.discover verb.load verb.provision winrm winrm.clear winrm.fault
	workload.failed
	workload.missing workload.never workload.rolling
`)

func isPlain(reason string) bool {
	return reason == "" || trust.Reason(reason).Meaning() != "" || slices.Contains(plain, reason)
}

// inClear is a reason as everybody is told it: one that is a secret is none, and one that a
// script made up is not told. own says that it is the latter.
func (r *Run) inClear(hidden *scrub.Set, reason string) (told string, own bool) {
	reason = clean(hidden, reason)
	if r.wordsOfScripts() && !isPlain(reason) {
		return ScriptRefused, true
	}
	return reason, false
}

// wordsOfScripts says whether the run's reason may be a script's. What runs after the
// rotation has no word in it.
func (r *Run) wordsOfScripts() bool {
	return r.rotator != nil || slices.ContainsFunc(r.uses, func(d dependent) bool { return d.script != nil })
}

// withoutOwnWords is err with a reason that may be told in clear; its text has the script's.
func withoutOwnWords(err error) error {
	class, reason := Classify(err)
	if isPlain(reason) {
		return err
	}
	return &sdk.Error{Class: sdk.Class(class), Reason: ScriptRefused, Err: fmt.Errorf("the script's own word for it is %s: %w", reason, err)}
}
