package proof

var recordRows = []manipulation{
	{
		row: 1, what: "data and wrapped key of two accounts swapped", run: dataAndKeySwapped,
		events: []string{"record.refused record_swapped"},
	},
	{
		row: 2, what: "data, key, statement and results of two accounts swapped", run: allSwapped,
		events: []string{"record.refused record_swapped"},
	},
	{
		row: 3, what: "data alone swapped", run: dataSwapped,
		events: []string{"record.refused record_corrupt"},
	},
	{
		row: 4, what: "a record served as another: wrapped anew, moved, or under a member's own statement", run: servedAsAnother,
		events: []string{"record.refused record_swapped", "record.refused folder_mismatch"},
	},
	{
		row: 5, what: "sealed folder keys swapped, or one of the server's own", run: folderKeysSwapped,
		events: []string{"record.refused folder_key_swapped"},
	},
	{
		row: 6, what: "a folder whose key the server made", run: folderOfServer,
		events: []string{"record.refused folder_unknown"},
	},
	{
		row: 8, what: "the resource's former statement, to an agent that saw the newer", run: formerStatement,
		events: []string{"record.refused statement_rollback"},
	},
	{
		row: 9, what: "the resource's former statement, to a new agent after a floor", run: formerStatementBelowFloor,
		events: []string{"record.refused statement_rollback"},
	},
	{
		row: 10, what: "the resource's former statement, to a new agent under a command", run: formerStatementUnderCommand,
		events: []string{"record.refused pin_mismatch"},
	},
	{
		row: 11, what: "a secrets-manager client edits a resource's host, and an account's secret", run: editedOutside,
		events: []string{"record_edited record_edited", "record.refused value_unattested"}, reaches: "the statement's alone; none with the edited secret",
	},
	{
		row: 12, what: "the statement deleted", run: statementDeleted,
		events: []string{"record.refused record_unsigned"},
	},
	{
		row: 13, what: "a statement signed by a reader", run: statementOfReader,
		events: []string{"record.refused not_allowed"},
	},
	{
		row: 14, what: "the account's link points to another resource", run: linkEdited,
		untold: "nobody looks at the link", reaches: "the statement's alone",
	},
	{
		row: 15, what: "the target has another TLS key, or SSH host key", run: targetChanged,
		events: []string{"target.refused target_identity"}, reaches: "the impostor is called, and sent no credential",
	},
	{
		row: 29, what: "a mandate fired again within its interval", run: firedAgain,
		events: []string{"run.refused too_often"},
	},
	{
		row: 30, what: "a mandate fired again after a restart of the agent", run: firedAgainAfterRestart,
		events: []string{"run.refused too_often"},
	},
	{
		row: 31, what: "the former statement, whose mandate was enabled, after the schedule was switched off", run: formerMandate,
		events: []string{"record.refused statement_rollback"},
	},
	{
		row: 32, what: "run due for an account with another's statement", run: mandateOfAnother,
		events: []string{"record.refused record_swapped"},
	},
	{
		row: 33, what: "run due to an agent of another pool that has the folder", run: dueToAnotherPool,
		events: []string{"run.refused wrong_pool"},
	},
	{
		row: 34, what: "a mandate past its time", run: mandatePastItsTime,
		events: []string{"run.refused mandate_expired"},
	},
	{
		row: 48, what: "an older candidate of the same account staged again", run: olderCandidates,
		events:  []string{"candidate.refused candidate_rollback", "candidate.refused candidate_expired", "record.refused value_rollback"},
		reaches: "untouched by the agent that remembers, but that it tries a newer value of its own by a login; the other tries the candidate: it may have been applied",
	},
	{
		row: 49, what: "another account's candidate staged", run: candidateOfAnother,
		events: []string{"candidate.refused candidate_unattested"},
	},
	{
		row: 52, what: "a staged value marked as current before it was verified", run: stagedMarkedCurrent,
		events: []string{"record.refused value_unattested"},
	},
	{
		row: 55, what: "a forged or replayed result \"committed\"", run: committedForged,
		events: []string{"result.refused result_forged"}, reaches: "the honest run goes on",
	},
	{
		row: 56, what: "a secrets-manager client finalizes, rolls back or updates an account in the middle of a run", run: machineMeddles,
		untold: "the protocol has no refusal for a client's finalizing and rolling back; its writes are refused to itself", reaches: "the agent's run goes on",
	},
	{
		row: 57, what: "a plugin binary replaced on the agent's disk", run: pluginReplaced,
		events: []string{"plugin.refused plugin_unknown"}, reaches: "untouched; an agent that runs goes on with the copy that it checked",
	},
	{
		row: 61, what: "database, logs, traffic and what the server decrypts of it searched for every secret of the run", run: nothingLeaks,
		untold: "there is nothing to tell", reaches: "the honest rotation",
	},
	{
		row: 62, what: "one-time-token binding answered with the server's own owner key", run: ownerKeyOfServer,
		untold: "a blind spot", reaches: "no target is concerned",
	},
	{
		row: 63, what: "a member names another folder's account as his resource's administrator", run: foreignAdministrator,
		events: []string{"record.refused not_linked"},
	},
	{
		row: 64, what: "a member makes an account of his own on a resource where he may not operate", run: loginTakenOver,
		events: []string{"record.refused not_linked", "record.refused signer_unknown"},
	},
	{
		row: 66, what: "old data attested by a stolen agent or a device without rights; the newest result with older data", run: formerValue,
		events:  []string{"record.refused value_unattested", "record.refused value_rollback"},
		reaches: "untouched; beside the newest result the agent that remembers tries its own value by a login",
	},
	{
		row: 67, what: "a candidate staged by a stolen agent without command or mandate", run: candidateWithoutAuthority,
		events:  []string{"candidate.refused candidate_unauthorised", "candidate.abandoned abandoned"},
		reaches: "the candidate is tried by a login: it may have been applied",
	},
	{
		row: 68, what: "a forged reply to probe or test", run: replyForged,
		events: []string{"result.refused result_forged"}, reaches: "the honest command goes on",
	},
}
