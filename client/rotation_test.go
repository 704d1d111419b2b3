package client

import (
	"slices"
	"testing"
	"time"

	"github.com/rotunda-pam/rotunda/internal/seal"
	"github.com/rotunda-pam/rotunda/internal/trust"
	trustv1 "github.com/rotunda-pam/rotunda/proto/rotunda/trust/v1"
)

// A preview says which firings agents would refuse by the account's mandate.
func TestPreviewOfAMandate(t *testing.T) {
	const day = 24 * time.Hour
	now := time.UnixMilli(0).Add(1000 * day)
	mandate := func(interval, life time.Duration) *trustv1.Mandate {
		return &trustv1.Mandate{Enabled: true, MinIntervalS: uint32(interval / time.Second), ValidUntil: now.Add(life).UnixMilli()}
	}
	for name, c := range map[string]struct {
		mandate *trustv1.Mandate
		changed time.Time
		refused []trust.Reason // of four daily firings, the first a day from now
	}{
		"none":                        {nil, time.Time{}, []trust.Reason{"mandate_off", "mandate_off", "mandate_off", "mandate_off"}},
		"as it is signed unasked":     {mandate(day/2, 400*day), now, []trust.Reason{"", "", "", ""}},
		"ends soon":                   {mandate(day/2, 2*day), now, []trust.Reason{"", "", "mandate_expired", "mandate_expired"}},
		"an interval over two gaps":   {mandate(2*day, 400*day), time.Time{}, []trust.Reason{"", "too_often", "too_often", ""}},
		"an interval of just one gap": {mandate(day, 400*day), time.Time{}, []trust.Reason{"", "too_often", "", "too_often"}},
		"rotated by hand just now":    {mandate(36*time.Hour, 400*day), now, []trust.Reason{"too_often", "", "too_often", ""}},
		"rotated by hand long ago":    {mandate(day/2, 400*day), now.Add(-day), []trust.Reason{"", "", "", ""}},
	} {
		r := Rotation{Schedule: Schedule{Every: day, Anchor: now}, Mandate: c.mandate, Changed: c.changed}
		firings, err := r.Preview(now, 4)
		if err != nil {
			t.Fatal(err)
		}
		var refused []trust.Reason
		for n, f := range firings {
			refused = append(refused, f.Refused)
			if want := now.Add(time.Duration(n+1) * day); !f.At.Equal(want) {
				t.Errorf("%s: firing %d at %s, want %s", name, n, f.At, want)
			}
		}
		if !slices.Equal(refused, c.refused) {
			t.Errorf("%s: refused %q, want %q", name, refused, c.refused)
		}
	}
}

// A preview has the jitter in it, as the server has: what is stored comes first.
func TestPreviewWithJitter(t *testing.T) {
	const h = time.Hour
	now := time.UnixMilli(0).Add(1000 * 24 * h)
	r := Rotation{
		Account: Ref{Folder: seal.NewID(), Record: seal.NewID()}, Schedule: Schedule{Every: 24 * h, Anchor: now}, Jitter: 6 * h,
		Mandate: &trustv1.Mandate{Enabled: true, MinIntervalS: 60, ValidUntil: now.Add(400 * 24 * h).UnixMilli()},
	}
	_, parsed, err := r.Schedule.proto(now)
	if err != nil {
		t.Fatal(err)
	}
	var want []time.Time
	for at := now; len(want) < 4; {
		due, nominal := parsed.Due(r.Account.Record[:], r.Jitter, at)
		want, at = append(want, due), nominal
	}
	retry := now.Add(time.Minute)
	for name, c := range map[string]struct {
		next  time.Time
		after time.Time
		want  []time.Time
	}{
		"of a schedule that waits":             {want[0], now, want[:3]},
		"where the jitter is all that is left": {want[0], want[0].Add(-time.Second), want[:3]},
		"of a run that is tried again":         {retry, now, append([]time.Time{retry}, want[:2]...)},
		"of a run that is due":                 {now, now, want[:3]},
	} {
		r.Next = c.next
		firings, err := r.Preview(c.after, 3)
		if err != nil {
			t.Fatal(err)
		}
		var got []time.Time
		for _, f := range firings {
			got = append(got, f.At)
		}
		if !slices.EqualFunc(got, c.want, time.Time.Equal) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if slices.EqualFunc(want[:3], []time.Time{now.Add(24 * h), now.Add(48 * h), now.Add(72 * h)}, time.Time.Equal) {
		t.Error("no jitter came about: nothing was tested")
	}
}
