package kmip_test

import (
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// Tags of the members of Name (KMIP 1.4, 9.1.3.1).
const tagNameValue, tagNameType = 0x420055, 0x420054

func TestFilter(t *testing.T) {
	name := kmip.Attribute{Name: kmip.AttributeName, Value: kmip.Struct(
		kmip.Field{Tag: tagNameValue, Value: kmip.Text("db")}, kmip.Field{Tag: tagNameType, Value: kmip.Enum(uint32(1))})}
	o, err := kmip.NewObject(kmip.SymmetricKey, template(name,
		kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now.Add(time.Hour))},
		kmip.Attribute{Name: "x-Size", Value: kmip.Int(7)}), now)
	if err != nil {
		t.Fatal(err)
	}
	date := func(d time.Duration) kmip.Attribute {
		return kmip.Attribute{Name: kmip.AttributeInitialDate, Value: kmip.Time(now.Add(d))}
	}
	state := func(s kmip.State) kmip.Attribute {
		return kmip.Attribute{Name: kmip.AttributeState, Value: kmip.Enum(s)}
	}
	for title, c := range map[string]struct {
		ask  []kmip.Attribute
		at   time.Duration
		want bool
	}{
		"nothing":                 {nil, 0, true},
		"the name":                {[]kmip.Attribute{name}, 0, true},
		"the name's value alone":  {[]kmip.Attribute{{Name: kmip.AttributeName, Value: kmip.Struct(kmip.Field{Tag: tagNameValue, Value: kmip.Text("db")})}}, 0, true},
		"part of the name":        {[]kmip.Attribute{{Name: kmip.AttributeName, Value: kmip.Struct(kmip.Field{Tag: tagNameValue, Value: kmip.Text("d")})}}, 0, false},
		"a number as text":        {[]kmip.Attribute{{Name: "x-Size", Value: kmip.Text("7")}}, 0, false},
		"the number":              {[]kmip.Attribute{{Name: "x-Size", Index: 3, Value: kmip.Int(7)}}, 0, true},
		"the second of its birth": {[]kmip.Attribute{date(0)}, 0, true},
		"another second":          {[]kmip.Attribute{date(time.Second)}, 0, false},
		"a range around it":       {[]kmip.Attribute{date(time.Hour), date(-time.Hour)}, 0, true},
		"a range after it":        {[]kmip.Attribute{date(time.Hour), date(2 * time.Hour)}, 0, false},
		"Pre-Active now":          {[]kmip.Attribute{state(kmip.PreActive)}, 0, true},
		"Pre-Active later":        {[]kmip.Attribute{state(kmip.PreActive)}, 2 * time.Hour, false},
		"Active later":            {[]kmip.Attribute{state(kmip.Active)}, 2 * time.Hour, true},
		"both, one wrong":         {[]kmip.Attribute{name, state(kmip.Active)}, 0, false},
	} {
		f, err := kmip.NewFilter(c.ask)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Matches(&o, now.Add(c.at)); got != c.want {
			t.Errorf("%s: %t, want %t", title, got, c.want)
		}
	}
	if _, err := kmip.NewFilter([]kmip.Attribute{{Name: "Colour"}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an unknown attribute: %v", err)
	}
}

// TestRevocationTable tries every reason in every state (KMIP 1.4, 3.22).
func TestRevocationTable(t *testing.T) {
	const deactivate, compromise = kmip.RevocationReason(1), kmip.KeyCompromise
	for _, c := range []struct {
		from   kmip.State
		reason kmip.RevocationReason
		to     kmip.State // 0: refused
	}{
		{kmip.PreActive, deactivate, 0},
		{kmip.PreActive, compromise, kmip.Compromised},
		{kmip.Active, deactivate, kmip.Deactivated},
		{kmip.Active, compromise, kmip.Compromised},
		{kmip.Deactivated, deactivate, 0},
		{kmip.Deactivated, compromise, kmip.Compromised},
		{kmip.Compromised, deactivate, 0},
		{kmip.Compromised, compromise, 0},
		{kmip.Destroyed, deactivate, 0},
		{kmip.Destroyed, compromise, kmip.DestroyedCompromised},
		{kmip.DestroyedCompromised, deactivate, 0},
		{kmip.DestroyedCompromised, compromise, 0},
	} {
		o := kmip.Object{State: c.from}
		err := o.Revoke(kmip.Revocation{Reason: c.reason}, now.Add(-time.Hour), now)
		switch {
		case c.to == 0 && (fault.KindOf(err) != fault.Illegal || o.State != c.from):
			t.Errorf("%s, reason %d: now %s, %v, want Illegal", c.from, c.reason, o.State, err)
		case c.to != 0 && (err != nil || o.State != c.to):
			t.Errorf("%s, reason %d: now %s, %v, want %s", c.from, c.reason, o.State, err, c.to)
		}
	}
	due := kmip.Object{State: kmip.Active, DeactivationDate: now.Add(-time.Second)}
	if got := due.Current(now); got != kmip.Deactivated {
		t.Errorf("after the Deactivation Date: %s", got)
	}
	early := template(kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now)},
		kmip.Attribute{Name: kmip.AttributeDeactivationDate, Value: kmip.Time(now.Add(-time.Hour))})
	if _, err := kmip.NewObject(kmip.SymmetricKey, early, now); fault.KindOf(err) != fault.Invalid {
		t.Errorf("deactivation before activation: %v", err)
	}
}
