package clientapi_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/store/db"
	"github.com/rotunda-pam/rotunda/internal/trust"
	clientv1 "github.com/rotunda-pam/rotunda/proto/rotunda/client/v1"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// TestPaging walks every list page by page: all rows, each once, none twice.
func TestPaging(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	const more = 25
	var ops []*clientv1.WriteOp
	second := sc.o.Folder(t)
	sc.o.Grant(t, second, sc.pool, trust.Read)
	for range 6 {
		sc.o.Folder(t)
	}
	apps := []seal.ID{}
	for i := range 6 {
		apps = append(apps, sc.o.App(t, fmt.Sprint("app ", i)))
	}
	sc.admin.catchUp()
	for _, app := range apps {
		ops = append(ops, &clientv1.WriteOp{Op: &clientv1.WriteOp_PutApp{PutApp: &clientv1.PutApp{AppId: app.Bytes(), AppData: random(9), OwnerPub: sc.agent.Device}}})
	}
	for i := range more {
		folder, kind := sc.folder, "pamUser"
		if i%3 == 0 {
			folder = second
		}
		if i%5 == 0 {
			kind = "login"
		}
		ref, create := newRecord(folder, kind)
		rot := sc.putRotation()
		rot.GetPutRotation().Account = ref.Proto()
		ops = append(ops, create, rot, sc.startRun(sc.o.Admin, seal.NewID()), replaceRecord(sc.account, int64(i)+1, random(20)))
	}
	sc.admin.must(sc.admin.write(ops...))
	ctx, c := t.Context(), sc.admin
	for _, test := range []struct {
		name string
		want int
		page func(p *clientv1.Page) (keys []string, next string, err error)
	}{
		{"folders", 8, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListFolders(ctx, connect.NewRequest(&clientv1.ListFoldersRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, f := range r.Msg.Folders {
				keys = append(keys, string(f.FolderUid))
			}
			return keys, r.Msg.Next, nil
		}},
		{"records", more + 2, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Records {
				keys = append(keys, string(v.Ref.RecordUid))
			}
			return keys, r.Msg.Next, nil
		}},
		{"records, their data alone", more + 2, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{Page: p, DataOnly: true}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Records {
				if len(v.Data) == 0 || len(v.RecordKey) == 0 || v.Statement != nil || v.Attestation != nil || v.Last != nil || v.Staged != nil {
					return nil, "", fmt.Errorf("the data alone is %v", v)
				}
				keys = append(keys, string(v.Ref.RecordUid))
			}
			return keys, r.Msg.Next, nil
		}},
		{"records of a kind", 5, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListRecords(ctx, connect.NewRequest(&clientv1.ListRecordsRequest{Page: p, Kinds: []string{"login", "none"}}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Records {
				keys = append(keys, string(v.Ref.RecordUid))
			}
			return keys, r.Msg.Next, nil
		}},
		{"history", more, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListHistory(ctx, connect.NewRequest(&clientv1.ListHistoryRequest{Ref: sc.account.Proto(), Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, h := range r.Msg.History {
				keys = append(keys, fmt.Sprint(h.Revision))
			}
			return keys, r.Msg.Next, nil
		}},
		{"rotations", more + 1, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListRotations(ctx, connect.NewRequest(&clientv1.ListRotationsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Rotations {
				keys = append(keys, string(v.Rotation.Account.RecordUid))
			}
			return keys, r.Msg.Next, nil
		}},
		{"runs", more, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListRuns(ctx, connect.NewRequest(&clientv1.ListRunsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Runs {
				keys = append(keys, string(v.RunId))
			}
			return keys, r.Msg.Next, nil
		}},
		{"apps", 7, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListApps(ctx, connect.NewRequest(&clientv1.ListAppsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			if len(r.Msg.Apps) == 0 { // apps without a stored row are not listed
				return nil, r.Msg.Next, nil
			}
			for _, v := range r.Msg.Apps {
				keys = append(keys, string(v.AppId))
			}
			return keys, r.Msg.Next, nil
		}},
		// Of each of 8 folders: the administrator and recovery; of two, the agent;
		// of 7 applications: the administrator.
		{"missing keys", 2*8 + 2 + 7, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListMissingKeys(ctx, connect.NewRequest(&clientv1.ListMissingKeysRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Missing {
				keys = append(keys, string(v.FolderUid)+string(v.AppId)+string(v.RecipientId))
			}
			return keys, r.Msg.Next, nil
		}},
		{"events, newest first", 0, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListEvents(ctx, connect.NewRequest(&clientv1.ListEventsRequest{Page: p, NewestFirst: true, Names: []string{"record.", "run."}}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Events {
				keys = append(keys, fmt.Sprint(v.Seq))
			}
			return keys, r.Msg.Next, nil
		}},
		{"events", 0, func(p *clientv1.Page) (keys []string, next string, err error) {
			r, err := c.ListEvents(ctx, connect.NewRequest(&clientv1.ListEventsRequest{Page: p}))
			if err != nil {
				return nil, "", err
			}
			for _, v := range r.Msg.Events {
				keys = append(keys, fmt.Sprint(v.Seq))
			}
			return keys, r.Msg.Next, nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := walk(t, 1000, test.page)
			if len(all) == 0 || test.want != 0 && len(all) != test.want {
				t.Errorf("%d rows, want %d", len(all), test.want)
			}
			for _, n := range []uint32{1, 4, 7} {
				got := walk(t, n, test.page)
				if fmt.Sprintf("%x", got) != fmt.Sprintf("%x", all) {
					t.Errorf("by pages of %d: %d rows, or another order; want %d", n, len(got), len(all))
				}
			}
			for _, token := range []string{"x", "AAAA", "////"} {
				_, _, err := test.page(&clientv1.Page{Token: token})
				refused(t, err, "malformed")
			}
		})
	}
}

func walk(t *testing.T, size uint32, page func(p *clientv1.Page) ([]string, string, error)) (all []string) {
	t.Helper()
	seen := map[string]bool{}
	p := &clientv1.Page{Size: size}
	for pages := 0; ; pages++ {
		keys, next, err := page(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) > int(size) {
			t.Errorf("a page of %d, at most %d", len(keys), size)
		}
		for _, k := range keys {
			if seen[k] {
				t.Errorf("row %x twice", k)
			}
			seen[k] = true
		}
		all = append(all, keys...)
		if next == "" {
			return all
		}
		if pages > 1000 {
			t.Fatal("pages without end")
		}
		p = &clientv1.Page{Size: size, Token: next}
	}
}

func TestMissingKeys(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	late := sc.o.Agent(t, "late", sc.pool)
	reader := sc.o.Member(t, "reader", 0)
	sc.o.Grant(t, sc.folder, reader.Owner, trust.Read)
	recovery, _ := sc.o.Log.Recovery()
	sharer := sc.member(t, trust.Share)
	missing := func() map[seal.ID]uint32 {
		t.Helper()
		r, err := sharer.ListMissingKeys(t.Context(), connect.NewRequest(&clientv1.ListMissingKeysRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		m := map[seal.ID]uint32{}
		for _, k := range r.Msg.Missing {
			if len(k.FolderUid) > 0 {
				equal(t, "folder", k.FolderUid, sc.folder[:])
				m[seal.ID(k.RecipientId)] = k.KeyVersion
			}
		}
		return m
	}
	want := func(what string, version uint32, ids ...seal.ID) {
		t.Helper()
		got := missing()
		for _, id := range ids {
			if got[id] != version {
				t.Errorf("%s: %s is listed with version %d, want %d", what, id, got[id], version)
			}
			delete(got, id)
		}
		if len(got) != 0 {
			t.Errorf("%s: also lists %v", what, got)
		}
	}
	everybody := []seal.ID{sc.o.Admin.ID, sc.agent.ID, late.ID, reader.ID, recovery.ID, sharer.party.ID}
	want("at first", 1, everybody...)
	ops := []*clientv1.WriteOp{}
	for _, id := range everybody[:5] {
		ops = append(ops, putFolderKey(sc.folder, 1, id))
	}
	sharer.must(sharer.write(ops...))
	want("when all but one are filled in", 1, sharer.party.ID)

	sc.o.Change(t, trust.RemoveOp(late.ID))
	sc.o.Grant(t, sc.folder, reader.Owner, 0)
	sc.o.Change(t, trust.FolderOp(sc.o.ID, sc.folder, 2, seal.NewKey()))
	s.wait(trust.Skew + time.Minute)
	s.restored() // a change that such a server had lost brings nothing along
	sc.admin.catchUp()
	want("after a new key", 2, sc.o.Admin.ID, sc.agent.ID, recovery.ID, sharer.party.ID)
	_, err := sharer.write(putFolderKey(sc.folder, 1, sc.agent.ID))
	refused(t, err, "key_version")
	folders, err := sharer.ListFolders(t.Context(), connect.NewRequest(&clientv1.ListFoldersRequest{}))
	if err != nil || len(folders.Msg.Folders) != 1 {
		t.Fatalf("folders: %v, %v", folders, err)
	}
	if f := folders.Msg.Folders[0]; f.KeyVersion != 2 || len(f.SealedKey) != 0 || f.Records != 2 {
		t.Errorf("folder: version %d, sealed %d bytes, %d records", f.KeyVersion, len(f.SealedKey), f.Records)
	}
}

func TestRunFilters(t *testing.T) {
	s := newServer(t)
	sc := newScene(t, s)
	run := map[string]seal.ID{"open": seal.NewID(), "failed": seal.NewID(), "unverifiable": seal.NewID(), "good": seal.NewID(), "scripts failed": seal.NewID()}
	for _, id := range run {
		sc.admin.must(sc.admin.write(sc.startRun(sc.o.Admin, id)))
	}
	err := s.store.Write(t.Context(), func(q *db.Queries) error {
		for name, id := range run {
			r, err := q.RunByID(t.Context(), db.RunByIDParams{Org: 1, RunID: id[:]})
			if err != nil {
				return err
			}
			state, finished, credential, scripts := "finished", int64(1), trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_NONE
			switch name {
			case "open":
				continue
			case "failed":
				state = "failed"
			case "unverifiable":
				credential = trustv1.Outcome_OUTCOME_UNVERIFIABLE
			case "scripts failed":
				scripts = trustv1.Outcome_OUTCOME_FAILED
			}
			err = q.MoveRun(t.Context(), db.MoveRunParams{Org: 1, RunID: r.RunID, State: state, Finished: finished, Credential: int64(credential), Scripts: int64(scripts)})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	list := func(filter string, account []byte) (names []string) {
		t.Helper()
		r, err := sc.admin.ListRuns(t.Context(), connect.NewRequest(&clientv1.ListRunsRequest{Filter: filter, AccountUid: account}))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range r.Msg.Runs {
			for name, id := range run {
				if string(id[:]) == string(v.RunId) {
					names = append(names, name)
				}
			}
		}
		slices.Sort(names)
		return names
	}
	for _, account := range [][]byte{nil, sc.account.Record.Bytes()} {
		for filter, want := range map[string]string{"failed": "[failed scripts failed]", "unfinished": "[open]", "unverifiable": "[unverifiable]", "overdue": "[]"} {
			if got := fmt.Sprint(list(filter, account)); got != want {
				t.Errorf("%s: got %s, want %s", filter, got, want)
			}
		}
		if got := list("", account); len(got) != 5 {
			t.Errorf("all: got %v", got)
		}
	}
	s.wait(14 * time.Minute) // within the session
	s.wait(59 * time.Second)
	if got := fmt.Sprint(list("overdue", nil)); got != "[]" {
		t.Errorf("not yet overdue: got %s", got)
	}
	_, err = sc.admin.ListRuns(t.Context(), connect.NewRequest(&clientv1.ListRunsRequest{Filter: "other"}))
	refused(t, err, "malformed")
	s.wait(2 * time.Minute)
	sc.admin = s.signIn(sc.o, sc.o.Admin)
	if got := fmt.Sprint(list("overdue", nil)); got != "[open]" {
		t.Errorf("overdue: got %s", got)
	}
}

// What failed is told of until it was done: a run that failed, dependents that were not
// reached, and scripts, each for itself.
func TestWhatWasNotMended(t *testing.T) {
	const none, done, failed = trustv1.Outcome_OUTCOME_NONE, trustv1.Outcome_OUTCOME_DONE, trustv1.Outcome_OUTCOME_FAILED
	type run struct {
		action, state                   string
		credential, dependents, scripts trustv1.Outcome
	}
	scriptsFailed := run{"rotate", "finished", done, none, failed}
	dependentsFailed := run{"rotate", "finished", done, failed, done}
	rotated := run{"rotate", "finished", done, done, done}
	declined := run{"rotate", "failed", failed, none, none}
	for name, test := range map[string]struct {
		runs []run // of one account, one after the other
		want string
	}{
		"well":                                  {[]run{rotated}, ""},
		"scripts":                               {[]run{rotated, scriptsFailed}, "unmended_scripts:1"},
		"scripts, run again":                    {[]run{scriptsFailed, {"script", "finished", none, none, done}}, ""},
		"scripts, run again in vain":            {[]run{scriptsFailed, {"script", "finished", none, none, failed}}, "unmended_scripts:0 unmended_scripts:1"},
		"scripts, not run again":                {[]run{scriptsFailed, {"script", "failed", failed, none, none}}, "unmended:1 unmended_scripts:0"},
		"scripts, and another rotation":         {[]run{scriptsFailed, rotated}, ""},
		"scripts, there are none now":           {[]run{scriptsFailed, {"rotate", "finished", done, none, none}}, ""},
		"scripts, and a rotation too soon":      {[]run{scriptsFailed, {"rotate", "finished", none, none, none}}, "unmended_scripts:0"},
		"scripts, and verified":                 {[]run{scriptsFailed, {"verify", "finished", done, none, none}}, "unmended_scripts:0"},
		"scripts, and one under way":            {[]run{scriptsFailed, {"script", "leased", none, none, none}}, "unmended_scripts:0"},
		"scripts, and a rotation that failed":   {[]run{scriptsFailed, declined}, "unmended:1 unmended_scripts:0"},
		"dependents":                            {[]run{dependentsFailed}, "unmended_dependents:0"},
		"dependents, and scripts are run":       {[]run{dependentsFailed, {"script", "finished", none, none, done}}, "unmended_dependents:0"},
		"dependents, and another rotation":      {[]run{dependentsFailed, rotated}, ""},
		"dependents, reached without scripts":   {[]run{dependentsFailed, scriptsFailed}, "unmended_scripts:1"},
		"refused":                               {[]run{rotated, declined}, "unmended:1"},
		"refused, and rotated":                  {[]run{declined, rotated}, ""},
		"refused, and scripts fail":             {[]run{declined, scriptsFailed}, "unmended_scripts:1"},
		"refused, and verified":                 {[]run{declined, {"verify", "finished", done, none, none}}, "unmended:0"},
		"stopped":                               {[]run{{"rotate", "alert", none, none, none}}, "unmended:0"},
		"a verify refused, and verified":        {[]run{{"verify", "failed", failed, none, none}, {"verify", "finished", done, none, none}}, ""},
		"a verify refused, and rotated":         {[]run{{"verify", "failed", failed, none, none}, rotated}, ""},
		"a verify refused, and scripts are run": {[]run{{"verify", "failed", failed, none, none}, {"script", "finished", none, none, done}}, "unmended:0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			sc := newScene(t, s)
			number := map[string]int{}
			for n, want := range test.runs {
				id := seal.NewID()
				number[string(id[:])] = n
				start := sc.startRun(sc.o.Admin, id)
				start.GetStartRun().Action = want.action
				sc.admin.must(sc.admin.write(start))
				err := s.store.Write(t.Context(), func(q *db.Queries) error {
					finished := int64(1)
					if want.state == "leased" {
						finished = 0
					}
					return q.MoveRun(t.Context(), db.MoveRunParams{
						Org: 1, RunID: id[:], State: want.state, Finished: finished,
						Credential: int64(want.credential), Dependents: int64(want.dependents), Scripts: int64(want.scripts),
					})
				})
				if err != nil {
					t.Fatal(err)
				}
				s.wait(time.Second)
			}
			var got []string
			for _, filter := range []string{"unmended", "unmended_dependents", "unmended_scripts"} {
				r, err := sc.admin.ListRuns(t.Context(), connect.NewRequest(&clientv1.ListRunsRequest{Filter: filter}))
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range r.Msg.Runs {
					got = append(got, fmt.Sprintf("%s:%d", filter, number[string(v.RunId)]))
				}
				_, err = sc.admin.ListRuns(t.Context(), connect.NewRequest(&clientv1.ListRunsRequest{Filter: filter, AccountUid: sc.account.Record.Bytes()}))
				refused(t, err, "malformed")
			}
			slices.Sort(got)
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
