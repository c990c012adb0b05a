package kmip_test

import (
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

func TestFilter(t *testing.T) {
	name := kmip.Attribute{Name: kmip.AttributeName, Value: kmip.Struct(
		kmip.Field{Tag: tagNameValue, Value: kmip.Text("db")}, kmip.Field{Tag: tagNameType, Value: kmip.Enum(uint32(1))})}
	o, err := kmip.NewObject(kmip.SymmetricKey, template(name,
		kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now.Add(time.Hour))},
		bits(7), kmip.Attribute{Name: "x-Size", Value: kmip.Int(7)}), now)
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
		"less than it may":        {[]kmip.Attribute{bits(6)}, 0, true},
		"more than it may":        {[]kmip.Attribute{bits(8)}, 0, false},
		"part of its uses":        {[]kmip.Attribute{given(kmip.AttributeCryptographicUsageMask, kmip.Int(8))}, 0, true},
		"another use":             {[]kmip.Attribute{given(kmip.AttributeCryptographicUsageMask, kmip.Int(9))}, 0, false},
		"a fresh one":             {[]kmip.Attribute{given(kmip.AttributeFresh, kmip.Bool(true))}, 0, true},
		"a server's name":         {[]kmip.Attribute{given("y-a", kmip.Int(1))}, 0, false},
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
	if _, err := kmip.NewFilter([]kmip.Attribute{date(0), date(1), date(2)}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a date three times: %v", err)
	}
	if f, err := kmip.NewFilter([]kmip.Attribute{state(kmip.PreActive), name}); err != nil {
		t.Error(err)
	} else if named, ok := f.Name(); ok {
		t.Errorf("a filter that destroyed objects match may not be answered by the name %q alone", named)
	}
	if _, err := kmip.NewFilter([]kmip.Attribute{{Name: "Colour"}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("an unknown attribute: %v", err)
	}
}
