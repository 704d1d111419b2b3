package main

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rotunda-pam/rotunda/sdk"
)

// What PostgreSQL itself refuses is proven unchanged. What a pooler may say of a statement
// that it has sent on, and what nobody has heard of, is not.
func TestChangeRefused(t *testing.T) {
	busy := unchanged(sdk.ClassUnreachable, "target.busy")
	policy := unchanged(sdk.ClassPolicy, "policy.refused")
	refused := unchanged(sdk.ClassConflict, "target.refused")
	for _, c := range []struct {
		code, message string
		want          sdk.ApplyResponse // zero: not proven
	}{
		{code: "08000"},
		{code: "08006"}, // connection_failure: Odyssey, of a server that hung up
		{code: "08007"}, // transaction_resolution_unknown
		{code: "08P01"},
		{code: "40003"}, // statement_completion_unknown
		{code: "57000"},
		{code: "57P01"},
		{code: "57P03"},
		{code: "58000"}, // system_error: poolers, of themselves
		{code: "58030"},
		{code: "F0000"},
		{code: "HV000"},
		{code: "XX000", message: "unable to read data from DB node 0"},
		{code: "XX001"},
		{code: "99999"},
		{code: ""},
		{code: "4"},
		{code: "42"},

		{code: "0A000", want: unchanged(sdk.ClassUnsupported, "target.refused")},
		{code: "0LP01", want: refused},
		{code: "0P000", want: refused},
		{code: "22001", want: refused},
		{code: "22023", want: policy},
		{code: "23505", want: refused},
		{code: "25006", want: unchanged(sdk.ClassConflict, "target.read_only")},
		{code: "25P02", want: refused},
		{code: "28000", want: policy},
		{code: "28P01", want: policy},
		{code: "2BP01", want: refused},
		{code: "40001", want: busy},
		{code: "40P01", want: busy},
		{code: "42501", want: unchanged(sdk.ClassPermission, "admin.rights")},
		{code: "42601", want: refused},
		{code: "42704", want: unchanged(sdk.ClassNotFound, "account.missing")},
		{code: "42939", want: unchanged(sdk.ClassInvalid, "account.name")},
		{code: "53100", want: busy},
		{code: "54000", want: refused},
		{code: "55000", want: refused},
		{code: "55P03", want: busy},
		{code: "57014", want: busy},
		{code: "P0001", want: refused},
		{code: "XX000", message: "tuple concurrently updated", want: busy},
	} {
		for _, severity := range []string{"ERROR", "FATAL", "PANIC"} {
			want := c.want
			if severity != "ERROR" {
				want = sdk.ApplyResponse{}
			}
			got := sdk.ApplyResponse{}
			if class, reason, proven := changeRefused(&pgconn.PgError{SeverityUnlocalized: severity, Code: c.code, Message: c.message}); proven {
				got = unchanged(class, reason)
			}
			if got != want {
				t.Errorf("%s %s %s: %+v, want %+v", severity, c.code, c.message, got, want)
			}
		}
	}
}

// A change that loses against another of the same role has changed nothing.
func TestAtTheSameTime(t *testing.T) {
	f := newFixture(t)
	f.role(t, "app", "as it was", "")
	s := f.open(t)
	other, err := f.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	if _, err := other.Exec(t.Context(), `BEGIN; ALTER ROLE app CONNECTION LIMIT 7`); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		sdk.ApplyResponse
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		out, err := f.apply(t.Context(), s, "app", "behind the other")
		answers <- answer{out, err}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for waiting := 0; waiting == 0; {
		select {
		case got := <-answers:
			t.Fatalf("it did not wait for the other: %+v", got)
		default:
		}
		if err := other.QueryRow(ctx, `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got.err != nil || got.ApplyResponse != unchanged(sdk.ClassUnreachable, "target.busy") {
		t.Errorf("%+v", got)
	}
	f.mustAccept(t, "app", "as it was", true)
}
