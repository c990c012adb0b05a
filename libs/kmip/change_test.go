package kmip_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

func TestAttributesOfAFreshObject(t *testing.T) {
	o, err := kmip.NewObject(kmip.SymmetricKey, template(), now)
	if err != nil {
		t.Fatal(err)
	}
	if got := o.Attributes([]string{"x-Vendor", "Activation Date"}, now); len(got) != 0 {
		t.Errorf("unset names gave %+v", got)
	}
	if got := o.Attributes([]string{"State"}, now); len(got) != 1 || got[0].Value.Number != int64(kmip.PreActive) {
		t.Errorf("State: %+v", got)
	}
	if !o.InitialDate.Equal(now.Truncate(time.Second)) {
		t.Errorf("Initial Date %s has more than seconds", o.InitialDate)
	}
}

func TestAddAttribute(t *testing.T) {
	o, err := kmip.NewObject(kmip.SymmetricKey, template(), now)
	if err != nil {
		t.Fatal(err)
	}
	copied := o
	for i := range 3 {
		a, err := o.AddAttribute(kmip.Attribute{Name: "x-Name", Value: kmip.Text("vm")}, now)
		if err != nil || int(a.Index) != i {
			t.Errorf("instance %d: %+v, %v", i, a, err)
		}
	}
	if len(copied.ClientAttributes) != 0 {
		t.Error("adding to one value changed a copy of it")
	}
	for name, c := range map[string]struct {
		a    kmip.Attribute
		want fault.Kind
	}{
		"read-only":     {kmip.Attribute{Name: kmip.AttributeState, Value: kmip.Enum(kmip.Active)}, fault.Denied},
		"set once":      {kmip.Attribute{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)}, fault.Denied},
		"with an index": {kmip.Attribute{Name: "x-Name", Index: 5, Value: kmip.Text("vm")}, fault.Invalid},
		"with a NUL":    {kmip.Attribute{Name: "x-Name", Value: kmip.Struct(kmip.Field{Value: kmip.Text("a\x00b")})}, fault.Invalid},
		"unknown":       {kmip.Attribute{Name: "Colour", Value: kmip.Text("red")}, fault.Invalid},
	} {
		if _, err := o.AddAttribute(c.a, now); fault.KindOf(err) != c.want || err == nil {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// bits is the Usage Limits of a key that may encrypt n bytes.
func bits(n int64) kmip.Attribute {
	const total, unit = 0x420097, 0x420098
	return given(kmip.AttributeUsageLimits, kmip.Struct(
		kmip.Field{Tag: total, Value: kmip.Value{Type: kmip.LongInteger, Number: n}}, kmip.Field{Tag: unit, Value: kmip.Enum(uint32(1))}))
}

func specific(namespace string, data ...string) kmip.Attribute {
	const tagData, tagNamespace = 0x420002, 0x420003
	fields := []kmip.Field{{Tag: tagNamespace, Value: kmip.Text(namespace)}}
	for _, d := range data {
		fields = append(fields, kmip.Field{Tag: tagData, Value: kmip.Text(d)})
	}
	return given(kmip.AttributeApplicationSpecific, kmip.Struct(fields...))
}

func indexed(a kmip.Attribute, index int32) kmip.Attribute {
	a.Index = index
	return a
}

// TestAttributeRules tries what a client may do with each kind of attribute
// (KMIP 1.4, section 3, 4.14 to 4.16 and 11.12 to 11.14).
func TestAttributeRules(t *testing.T) {
	const fine = fault.Internal
	date := func(name string, d time.Duration) kmip.Attribute { return given(name, kmip.Time(now.Add(d))) }
	active, err := kmip.NewObject(kmip.SymmetricKey, template(name("a"), name("b"), given("x-a", kmip.Int(1)),
		given(kmip.AttributeOperationPolicyName, kmip.Text("default")), given(kmip.AttributeContactInformation, kmip.Text("joe")),
		date(kmip.AttributeActivationDate, -time.Hour), date(kmip.AttributeDeactivationDate, time.Hour)), now)
	if err != nil {
		t.Fatal(err)
	}
	opaque, err := kmip.NewRegistered(kmip.Registration{Type: kmip.OpaqueObject, Format: kmip.Opaque}, 4, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		title               string
		object              kmip.Object
		a                   kmip.Attribute
		add, modify, remove fault.Kind
	}{
		{"a state", active, given(kmip.AttributeState, kmip.Enum(kmip.Active)), fault.Denied, fault.Denied, fault.Denied},
		{"an identifier", active, given(kmip.AttributeUniqueIdentifier, kmip.Text("a")), fault.Denied, fault.Denied, fault.Denied},
		{"a digest", active, given(kmip.AttributeDigest, kmip.Struct()), fault.Denied, fault.Denied, fault.Denied},
		{"a length", active, given(kmip.AttributeCryptographicLength, kmip.Int(256)), fault.Denied, fault.Denied, fault.Denied},
		{"a policy", active, given(kmip.AttributeOperationPolicyName, kmip.Text("a")), fault.Denied, fault.Denied, fault.Denied},
		{"freshness", active, given(kmip.AttributeFresh, kmip.Bool(true)), fault.Denied, fault.Denied, fault.Denied},
		{"sensitivity", active, given(kmip.AttributeSensitive, kmip.Bool(true)), fault.Illegal, fine, fault.Denied},
		{"an Activation Date", active, date(kmip.AttributeActivationDate, 0), fault.Illegal, fault.Denied, fault.Denied},
		{"a Deactivation Date", active, date(kmip.AttributeDeactivationDate, time.Minute), fault.Illegal, fine, fault.Denied},
		{"one before activation", active, date(kmip.AttributeDeactivationDate, -2*time.Hour), fault.Illegal, fault.Invalid, fault.Denied},
		{"a Protect Stop Date", active, date(kmip.AttributeProtectStopDate, time.Minute), fine, fault.Invalid, fault.Denied},
		{"one after deactivation", active, date(kmip.AttributeProtectStopDate, 2*time.Hour), fault.Invalid, fault.Invalid, fault.Denied},
		{"a contact", active, given(kmip.AttributeContactInformation, kmip.Text("ann")), fault.Illegal, fine, fine},
		{"a comment", active, given(kmip.AttributeComment, kmip.Text("ann")), fine, fault.Invalid, fault.NotFound},
		{"a comment as a number", active, given(kmip.AttributeComment, kmip.Int(7)), fault.Invalid, fault.Invalid, fault.NotFound},
		{"a group", active, given(kmip.AttributeObjectGroup, kmip.Text("g")), fine, fault.Invalid, fault.NotFound},
		{"a name", active, name("c"), fine, fine, fine},
		{"its second instance", active, indexed(name("c"), 1), fault.Invalid, fine, fine},
		{"its third instance", active, indexed(name("c"), 2), fault.Invalid, fault.NotFound, fault.NotFound},
		{"a contact's second", active, indexed(given(kmip.AttributeContactInformation, kmip.Text("a")), 1), fault.Invalid, fault.NotFound, fault.NotFound},
		{"half a name", active, given(kmip.AttributeName, kmip.Struct(kmip.Field{Tag: tagNameValue, Value: kmip.Text("c")})), fault.Invalid, fault.Invalid, fine},
		{"custom", active, given("x-a", kmip.Struct(kmip.Field{Tag: 0x540001, Value: kmip.Bool(true)})), fine, fine, fine},
		{"custom, unset", active, given("x-b", kmip.Text("b")), fine, fault.Invalid, fault.NotFound},
		{"the server's", active, given("y-a", kmip.Text("b")), fault.Denied, fault.Denied, fault.Denied},
		{"unknown", active, given("Colour", kmip.Text("red")), fault.Invalid, fault.Invalid, fault.NotFound},
		{"limits", active, bits(7), fine, fault.Invalid, fault.NotFound},
		{"negative limits", active, bits(-7), fault.Invalid, fault.Invalid, fault.NotFound},
		{"application data", active, specific("LIBRARY-LTO", "12"), fine, fault.Invalid, fault.NotFound},
		{"no application data", active, specific("LIBRARY-LTO"), fault.NamespaceMissing, fault.Invalid, fault.NotFound},
		{"an opaque object's date", opaque, date(kmip.AttributeActivationDate, 0), fault.Denied, fault.Invalid, fault.Denied},
		{"an opaque object's name", opaque, name("c"), fine, fault.Invalid, fault.NotFound},
	} {
		for operation, do := range map[string]func(o *kmip.Object) (kmip.Attribute, error){
			"add":    func(o *kmip.Object) (kmip.Attribute, error) { return o.AddAttribute(c.a, now.Add(time.Second)) },
			"modify": func(o *kmip.Object) (kmip.Attribute, error) { return o.ModifyAttribute(c.a, now.Add(time.Second)) },
			"delete": func(o *kmip.Object) (kmip.Attribute, error) {
				return o.DeleteAttribute(c.a.Name, c.a.Index, now.Add(time.Second))
			},
		} {
			want := map[string]fault.Kind{"add": c.add, "modify": c.modify, "delete": c.remove}[operation]
			o, copied := c.object, c.object
			a, err := do(&o)
			if want == fine && err != nil || want != fine && (err == nil || fault.KindOf(err) != want) {
				t.Errorf("%s %s: %v, want %s", operation, c.title, err, want)
			}
			if !reflect.DeepEqual(copied, c.object) || err != nil && !reflect.DeepEqual(o, c.object) {
				t.Errorf("%s %s: changed a copy, or failed and changed something", operation, c.title)
			}
			if err != nil {
				continue
			}
			if !o.LastChangeDate.Equal(now.Add(time.Second).Truncate(time.Second)) {
				t.Errorf("%s %s: Last Change Date %s", operation, c.title, o.LastChangeDate)
			}
			have := o.Attributes([]string{a.Name}, now)
			held := false
			for _, h := range have {
				held = held || reflect.DeepEqual(h, a)
			}
			if held != (operation != "delete") {
				t.Errorf("%s %s answers %+v; the object has %+v", operation, c.title, a, have)
			}
		}
	}
}

// TestIndicesStay holds that deleting an instance moves no other, and that the
// index of a new one is above those that are left.
func TestIndicesStay(t *testing.T) {
	o, err := kmip.NewObject(kmip.SymmetricKey, template(given("x-a", kmip.Int(0)), given("x-a", kmip.Int(1)), given("x-a", kmip.Int(2))), now)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := o.DeleteAttribute("x-a", 0, now); err != nil || a.Value.Number != 0 {
		t.Errorf("deleted %+v, %v", a, err)
	}
	if _, err := o.DeleteAttribute("x-a", 0, now); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the first again: %v, want NotFound", err)
	}
	if a, err := o.AddAttribute(given("x-a", kmip.Int(3)), now); err != nil || a.Index != 3 {
		t.Errorf("added %+v, %v", a, err)
	}
	for i, a := range o.Attributes([]string{"x-a"}, now) {
		if int(a.Index) != i+1 || a.Value.Number != int64(i+1) {
			t.Errorf("instance %d is %+v", i, a)
		}
	}
}

// TestSensitivityIsRemembered follows KMIP 1.4, 3.48 to 3.51.
func TestSensitivityIsRemembered(t *testing.T) {
	set := func(o *kmip.Object, name string, to bool) {
		t.Helper()
		if _, err := o.ModifyAttribute(given(name, kmip.Bool(to)), now); err != nil {
			t.Fatal(err)
		}
	}
	want := func(o *kmip.Object, name string, want bool) {
		t.Helper()
		if a := o.Attributes([]string{name}, now); len(a) != 1 || a[0].Value.Number != 1 == want {
			t.Errorf("%s: %+v, want %t", name, a, want)
		}
	}
	born, err := kmip.NewObject(kmip.SymmetricKey, template(given(kmip.AttributeSensitive, kmip.Bool(true)), given(kmip.AttributeExtractable, kmip.Bool(false))), now)
	if err != nil {
		t.Fatal(err)
	}
	want(&born, kmip.AttributeAlwaysSensitive, true)
	want(&born, kmip.AttributeNeverExtractable, true)
	plain, err := kmip.NewObject(kmip.SymmetricKey, template(), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*kmip.Object{&born, &plain} {
		set(o, kmip.AttributeSensitive, false)
		set(o, kmip.AttributeExtractable, true)
		want(o, kmip.AttributeAlwaysSensitive, false)
		want(o, kmip.AttributeNeverExtractable, false)
		if f, err := o.GiveAs(0); err != nil || f != kmip.Raw {
			t.Errorf("given as %d, %v", f, err)
		}
		set(o, kmip.AttributeExtractable, false)
		if _, err := o.GiveAs(0); fault.KindOf(err) != fault.NotExtractable {
			t.Errorf("not extractable: %v", err)
		}
		set(o, kmip.AttributeSensitive, true)
		if _, err := o.GiveAs(0); fault.KindOf(err) != fault.Sensitive {
			t.Errorf("sensitive: %v", err)
		}
		want(o, kmip.AttributeAlwaysSensitive, false)
		want(o, kmip.AttributeNeverExtractable, false)
	}
}

func TestCheck(t *testing.T) {
	o, err := kmip.NewObject(kmip.SymmetricKey, template(bits(7)), now)
	if err != nil {
		t.Fatal(err)
	}
	const sign = 1
	for _, c := range []struct{ use, denied kmip.Use }{
		{kmip.Use{}, kmip.Use{}},
		{kmip.Use{Mask: kmip.Encrypt, Units: 7}, kmip.Use{}},
		{kmip.Use{Mask: kmip.Encrypt, Units: 8}, kmip.Use{Units: 8}},
		{kmip.Use{Mask: kmip.Encrypt | sign, Units: 8}, kmip.Use{Mask: kmip.Encrypt | sign, Units: 8}},
	} {
		if denied, err := o.Check(c.use); err != nil || denied != c.denied {
			t.Errorf("%+v: %+v, %v, want %+v", c.use, denied, err, c.denied)
		}
	}
	if err := o.Destroy(now); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Check(kmip.Use{}); fault.KindOf(err) != fault.Illegal {
		t.Errorf("a destroyed key: %v, want Illegal", err)
	}
}
