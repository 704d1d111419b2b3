package client

import "github.com/rotunda-pam/rotunda/internal/trust"

// Hint says what to do about the reason with which a run, a test or a probe ended,
// in one line; empty for a reason that is not known here, such as a plugin's own.
func Hint(reason string) string {
	if h, ok := hints[reason]; ok {
		return h
	}
	return trust.Reason(reason).Hint()
}

const (
	lookAtTarget  = "see that the target runs and that the agent's host reaches its address"
	lookAtAdmin   = "set the administrator's present secret with `rotunda record edit`, or name the account that is meant with `rotunda resource edit RESOURCE --admin ACCOUNT`; `rotunda resource test` tries it"
	lookAtAccount = "compare the login in the record with the account at the target"
	otherPolicy   = "set a password policy that the target takes: `rotunda record edit --policy-length … --policy-symbols …`"
	laterAgain    = "the target was busy: try again"
	lookAtPlugin  = "the agent's log tells what the plugin printed; install the plugin that belongs to this agent's version"
	lookAtRecord  = "look at the record and set it right with `rotunda record edit`"
	lookAtJump    = "see that the jump host runs, and that the agent's host, or the jump host before it, reaches its address"
	lookAtServer  = "see `rotunda doctor`, and the server's log"
)

// hints are by the codes of agent/run, agent/pluginhost, the wire of plugins and the
// plugins of this repository; those of the checks are with the checks (package trust).
var hints = map[string]string{
	"dial.unreachable": lookAtTarget,
	"dial.timeout":     lookAtTarget,
	"dial.closed":      lookAtTarget,
	"dial.limit":       laterAgain,
	"dial.refused":     "the plugin asked for an address that is not the resource's",
	"dial.protocol":    lookAtPlugin,
	"connection":       lookAtTarget,
	"unreachable":      lookAtTarget,
	"deadline":         lookAtTarget,
	"cancelled":        lookAtTarget,
	"undecided":        lookAtTarget,
	"probe":            lookAtTarget,
	"reply.lost":       "the target did not answer to the change: Rotunda asks it which secret it has",
	"replicating":      "the target needs time to spread the change: Rotunda asks again",
	"throttled":        laterAgain,
	"target.busy":      laterAgain,
	"login_budget":     "the run may cause no more failed logins: wait until the account cannot be locked out, then try again",

	"target.read_only": "the address leads to a server that takes no changes: name the primary in the resource",
	"target.refused":   "the target refuses the change; its log says why",
	"login.refused":    "the target refuses the login; its log says why",
	"target.tools":     "the target lacks a program that the change needs: install chpasswd, and runuser or su",
	"server.version":   "upgrade the target",
	"auth.method":      "have the target ask for the secret (pg_hba.conf: scram-sha-256; sshd: no empty passwords): it asks for none, or in a way that proves nothing",
	"readback.rights":  "the administrator may not read what the target stores: grant it, or `rotunda record edit ACCOUNT --verify-mode login`",
	"catalogue":        "the administrator may not read the target's catalogue of accounts: grant it",
	"database.missing": "name a database that is there, in the account's --scope or the resource's settings",

	"admin.refused":      lookAtAdmin,
	"admin.dialogue":     "the target asks the administrator for more than his secret (an expired password, a second factor): end that for this login",
	"admin.key":          lookAtAdmin,
	"admin.no_shell":     "give the administrator a login shell at the target",
	"admin.not_root":     "have the administrator be root, or let him use sudo at the target",
	"admin.rights":       "grant the administrator the right to change this account's secret",
	"admin.sudo":         "let the administrator use sudo at the target without a terminal",
	"administrator.none": "name one: `rotunda resource edit RESOURCE --admin ACCOUNT`",

	"account.missing":  lookAtAccount,
	"account.name":     lookAtAccount,
	"account.expired":  "extend the account at the target: until then no secret opens it",
	"account.no_home":  "make the account's home folder at the target",
	"keys.unwritable":  "see that the account's authorized_keys can be written: its folder, its owner, the disk",
	"chpasswd.refused": otherPolicy,
	"locked":           "unlock the account at the target: while it is locked nobody can tell which secret it has, and a new one would let it in again",
	"not_judged":       "the target refused the login, which proves nothing of the secret: see that the resource's administrator can log in and become root there",
	"key.not_taken":    "the key is in the account's authorized_keys and the target does not take it: its log says why",
	"second_factor":    "the target wants more than the account's secret: nobody but a person can log in there",
	"no_login":         "the account may not log in at the target, so nobody can check its secret",
	"expired":          "extend the account at the target, or the command came too late: send it again, and compare the clocks of this machine and of the agent's host",
	"bad_secret":       "the target has another secret than the vault: set the right one with `rotunda record edit`, or `rotunda rotate` sets a new one",
	"both_rejected":    "find out who changed the secret at the target, then set the right one with `rotunda record edit`",

	"healed": "the server had lost this account's newest secret, and an agent brought it back from its own copy: ask whether a backup was restored; rotate again for a new secret",

	"server.recovering":  "the target has another secret than the candidate of before the restore: end the recovery with `rotunda org end-recovery`, or give the candidate up with `rotunda run abandon`",
	"candidate.rejected": "look at the account's expiry, locks and open transactions at the target; Rotunda tries again",
	"retire.pending":     "the new secret is in use; Rotunda tries again to end the former one",
	"keys.keep_missing":  "the new key is gone from the target's authorized_keys: nothing was removed; rotate again",
	"mint.unknown":       "the target may have made a key that nobody knows: Rotunda looks for it at the next try, and deletes it",
	"orphan.pending":     "Rotunda tries again to delete a key that it had the target make and that nobody uses",
	"orphan.ambiguous":   "delete at the target the keys that nobody uses, then rotate by hand: `rotunda rotate RECORD`; what is there then is left alone",
	"key_id.missing":     "put the key's id at the target into the record: `rotunda record edit RECORD --key-id ID`",
	"keys.full":          "the account has as many keys as the target allows: delete there one that nobody uses, then rotate again",
	"keys.too_many":      "the account has more keys than can be told apart: delete at the target those that nobody uses",
	"mint.not_new":       lookAtPlugin,
	"key.public":         lookAtRecord,
	"key.private":        lookAtRecord,
	"key.mismatch":       "the record's public key is not that of its private key: set both with `rotunda record edit`",
	"key.same":           "rotate again",

	"policy.refused":     otherPolicy,
	"policy.charset":     otherPolicy,
	"policy.impossible":  otherPolicy,
	"password.charset":   otherPolicy,
	"record.changed":     "somebody edited the record while the run went on, and that edit stands: look at it, then rotate again",
	"config":             "set the resource right: `rotunda resource edit`",
	"address":            "set the resource right: `rotunda resource edit`",
	"tls.pin":            "`rotunda resource probe RESOURCE --pin` pins the key that the target shows",
	"kind":               "this plugin rotates no secret of that kind: make the account with another --kind, or use another plugin",
	"secret_kind":        "this agent rotates no secret of that kind yet",
	"self":               "name an administrator: `rotunda resource edit RESOURCE --admin ACCOUNT`",
	"admin.outstanding":  "the administrator's own rotation has not ended: `rotunda run list` shows it; try again after it",
	"jump.unreachable":   lookAtJump,
	"jump.refused":       "the jump host refuses the login: set its secret right, or name another account: `rotunda resource edit HOST --extra jump=ACCOUNT`",
	"jump.forbidden":     "sshd on the jump host forbids it: AllowTcpForwarding and PermitOpen must let this login reach the target",
	"jump.name":          "name the target by its address (`rotunda resource edit --host`), and for TLS its name by --tls-name",
	"jump.host_key":      "`rotunda resource probe HOST --pin` pins the jump host's key",
	"jump.key":           "set the key of the login on the jump host right with `rotunda record edit`",
	"jump.login":         "name who logs in there: `rotunda resource edit HOST --extra jump=ACCOUNT`, or its administrator",
	"jump.plugin":        "only resources of the plugin ssh lead further: `rotunda resource edit --via`",
	"jump.chain":         "`rotunda resource edit --via` of the resource, or of one of its jump hosts",
	"scripts":            "scripts cannot be used yet: take them out of the record",
	"dependents.pending": "the new secret is in use; Rotunda tries again to give it to what uses it: `rotunda run show` says what stands in the way",
	"dependents.failed":  "give the new secret by hand to what refused it, or mend that and rotate again: `rotunda run show` names it",
	"draining":           "the new secret is in use; the former one works for as long as --drain of the record says",
	"dependent.plugin":   "the plugin that the record names for a dependent serves none: `rotunda record edit --dependents-file`",
	"plan.malformed":     lookAtPlugin,
	"plan.too_long":      "name fewer dependents: `rotunda record edit --dependents-file`",
	"verb.dependents":    lookAtPlugin,
	"pair.in_use":        "rotate the other account of the pair, which then takes over",
	"pair.unknown":       "find out which account of the pair is in use, and `rotunda rotate` the other",
	"pair.draining":      "wait until then, or shorten --drain of both accounts: who used this one may still do so",
	"pair.one_sided":     "name each by the other: `rotunda record edit A --pair B`, and B by A; both on one resource",
	"account.exists":     "an account of that name is there, and was not made by the agents: choose another name",
	"account.owns":       "it owns something at the target: give that to another, then it can be removed",
	"account.half_made":  "look at what the account misses at the target, such as its home folder, and make it; or remove the account and run again",
	"account.refused":    "the target's own programs refuse to make or remove the account: its name, its groups, what it runs",
	"account.until":      "give the time as 2027-03-28T02:30:00Z",
	"account.groups":     "name groups that the target can have",
	"group.missing":      "name groups that are there",
	"verb.provision":     lookAtPlugin,
	"file.missing":       "make the file at the target, with the owner and mode that it shall have",
	"file.unwritable":    "the file's folder must belong to root or to the file's owner, who must be in the file's group, and have room",
	"file.folder":        "name the file without links on its way; its folder and those above must be root's or its owner's, and nobody else may write there: chmod go-w",
	"file.lines":         "leave out key in the dependent's settings: a secret of several lines is a file of its own",
	"step.data":          lookAtPlugin,

	"plugin_start":    "`rotunda-agent doctor` on the agent's host looks at its plugins",
	"plugin_protocol": lookAtPlugin,
	"plugin_manifest": lookAtPlugin,
	"plugin_crashed":  lookAtPlugin,
	"plugin_deaf":     lookAtPlugin,
	"plugin_busy":     "the agent has more to do than processes to do it with: raise `processes` in its settings, or add an agent to the pool",
	"plugin_deadline": lookAtTarget,
	"session_closed":  "try again",
	"host_closed":     "the agent is stopping: another agent of the pool, or its next start, goes on",
	"bad_request":     lookAtPlugin,
	"unclassed":       lookAtPlugin,
	"internal":        "the agent's log says more",
	"script":          lookAtPlugin,
	"scram":           lookAtPlugin,
	"session.closed":  "try again",
	"session.id":      lookAtPlugin,
	"session.nil":     lookAtPlugin,
	"plugin.unknown":  lookAtPlugin,
	"manifest.retire": lookAtPlugin, "manifest.readback": lookAtPlugin, "verb.retire": lookAtPlugin, "verb.readback": lookAtPlugin,
	"manifest.minted": lookAtPlugin, "verb.mint": lookAtPlugin,

	"server_unavailable": lookAtServer,
	"access_denied":      "see that the agent is in the log and that its pool may read the folder: `rotunda agent list`, `rotunda folder list`",
}
