package kmip_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

func TestNewObjectRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		typ      kmip.ObjectType
		template []kmip.Attribute
		want     fault.Kind
	}{
		"a certificate":    {1, template(), fault.Invalid},
		"no algorithm":     {kmip.SymmetricKey, template()[1:], fault.Missing},
		"no length":        {kmip.SymmetricKey, template()[:2], fault.Missing},
		"3DES":             {kmip.SymmetricKey, append(template()[1:], kmip.Attribute{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(uint32(2))}), fault.Invalid},
		"200 bits":         {kmip.SymmetricKey, append(template()[:2], kmip.Attribute{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(200)}), fault.Invalid},
		"length twice":     {kmip.SymmetricKey, append(template(), template()[2]), fault.Invalid},
		"length as text":   {kmip.SymmetricKey, append(template()[:2], kmip.Attribute{Name: kmip.AttributeCryptographicLength, Value: kmip.Text("256")}), fault.Invalid},
		"a state":          {kmip.SymmetricKey, template(kmip.Attribute{Name: kmip.AttributeState, Value: kmip.Enum(kmip.Active)}), fault.Denied},
		"an index":         {kmip.SymmetricKey, template(kmip.Attribute{Name: "x-a", Index: 1, Value: kmip.Int(1)}), fault.Invalid},
		"an unknown name":  {kmip.SymmetricKey, template(kmip.Attribute{Name: "Colour", Value: kmip.Int(1)}), fault.Invalid},
		"a server's name":  {kmip.SymmetricKey, template(kmip.Attribute{Name: "y-a", Value: kmip.Int(1)}), fault.Denied},
		"a long value":     {kmip.SymmetricKey, template(kmip.Attribute{Name: "x-a", Value: kmip.Text(strings.Repeat("a", kmip.MaxTextValue+1))}), fault.Invalid},
		"a name as a text": {kmip.SymmetricKey, template(kmip.Attribute{Name: kmip.AttributeName, Value: kmip.Text("a")}), fault.Invalid},
	} {
		if _, err := kmip.NewObject(c.typ, c.template, now); fault.KindOf(err) != c.want || err == nil {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// Tags of the members of Name (KMIP 1.4, 9.1.3.1).
const tagNameValue, tagNameType = 0x420055, 0x420054

// given is an attribute of a request.
func given(name string, v kmip.Value) kmip.Attribute { return kmip.Attribute{Name: name, Value: v} }

func name(s string) kmip.Attribute {
	return given(kmip.AttributeName, kmip.Struct(
		kmip.Field{Tag: tagNameValue, Value: kmip.Text(s)}, kmip.Field{Tag: tagNameType, Value: kmip.Enum(uint32(1))}))
}

func TestNewRegistered(t *testing.T) {
	mask := given(kmip.AttributeCryptographicUsageMask, kmip.Int(4))
	key := kmip.Registration{Type: kmip.SymmetricKey, Format: kmip.Raw, Algorithm: kmip.AES, Length: 256}
	with := func(change func(*kmip.Registration)) kmip.Registration {
		r := key
		change(&r)
		return r
	}
	secretData := kmip.Registration{Type: kmip.SecretData, Format: kmip.Opaque, DataType: kmip.Password}
	for title, c := range map[string]struct {
		brought  kmip.Registration
		size     int
		template []kmip.Attribute
		want     fault.Kind // Internal: taken
	}{
		"a key":                     {key, 32, []kmip.Attribute{mask}, fault.Internal},
		"described by its template": {with(func(r *kmip.Registration) { r.Algorithm, r.Length = 0, 0 }), 32, template(), fault.Internal},
		"described twice":           {key, 32, template(), fault.Internal},
		"a contradiction":           {with(func(r *kmip.Registration) { r.Length = 128 }), 16, template(), fault.Invalid},
		"another length":            {key, 16, []kmip.Attribute{mask}, fault.Invalid},
		"3DES":                      {with(func(r *kmip.Registration) { r.Algorithm = 2 }), 32, []kmip.Attribute{mask}, fault.Invalid},
		"64 bits":                   {with(func(r *kmip.Registration) { r.Length = 64 }), 8, []kmip.Attribute{mask}, fault.Invalid},
		"no algorithm":              {with(func(r *kmip.Registration) { r.Algorithm = 0 }), 32, []kmip.Attribute{mask}, fault.Missing},
		"no length":                 {with(func(r *kmip.Registration) { r.Length = 0 }), 32, []kmip.Attribute{mask}, fault.Missing},
		"no mask":                   {key, 32, nil, fault.Missing},
		"no bytes":                  {key, 0, []kmip.Attribute{mask}, fault.Missing},
		"a PKCS#8 key":              {with(func(r *kmip.Registration) { r.Format = 4 }), 32, []kmip.Attribute{mask}, fault.FormatMissing},
		"a private key":             {with(func(r *kmip.Registration) { r.Type = 4 }), 32, []kmip.Attribute{mask}, fault.Invalid},
		"a date of creation": {key, 32, []kmip.Attribute{
			mask,
			given(kmip.AttributeOriginalCreationDate, kmip.Time(now.Add(-time.Hour))),
		}, fault.Internal},
		"a password":             {secretData, 7, nil, fault.Internal},
		"a secret of no type":    {kmip.Registration{Type: kmip.SecretData, Format: kmip.Raw}, 7, nil, fault.Invalid},
		"a transparent secret":   {kmip.Registration{Type: kmip.SecretData, Format: kmip.TransparentSymmetricKey, DataType: 1}, 7, nil, fault.FormatMissing},
		"a password's length":    {secretData, 7, template()[2:], fault.Invalid},
		"an opaque object":       {kmip.Registration{Type: kmip.OpaqueObject, Format: kmip.Opaque}, 1, []kmip.Attribute{name("a")}, fault.Internal},
		"an opaque object's use": {kmip.Registration{Type: kmip.OpaqueObject, Format: kmip.Opaque}, 1, []kmip.Attribute{mask}, fault.Invalid},
	} {
		o, err := kmip.NewRegistered(c.brought, c.size, c.template, now)
		if c.want != fault.Internal && fault.KindOf(err) != c.want || c.want == fault.Internal && err != nil {
			t.Errorf("%s: %v, want %s", title, err, c.want)
		}
		if err == nil && (int(o.Length) != 8*c.size || o.State != kmip.PreActive) {
			t.Errorf("%s: %+v", title, o)
		}
	}
	for _, name := range []string{kmip.AttributeOriginalCreationDate, kmip.AttributeInitialDate} {
		if _, err := kmip.NewObject(kmip.SymmetricKey, template(given(name, kmip.Time(now))), now); fault.KindOf(err) != fault.Denied {
			t.Errorf("Create with %s: %v, want Denied", name, err)
		}
	}
}

// TestReplacement holds Re-key's table of attributes and dates (KMIP 1.4, 4.4).
func TestReplacement(t *testing.T) {
	at := func(hours int) time.Time { return now.Add(time.Duration(hours) * time.Hour).Truncate(time.Second) }
	hour := func(name string, hours int) kmip.Attribute { return given(name, kmip.Time(at(hours))) }
	old, err := kmip.NewObject(kmip.SymmetricKey, template(name("db"), name("db2"), given("x-a", kmip.Int(1)), given("x-a", kmip.Int(2)),
		given(kmip.AttributeContactInformation, kmip.Text("joe")),
		hour(kmip.AttributeActivationDate, -4), hour(kmip.AttributeProcessStartDate, -3),
		hour(kmip.AttributeProtectStopDate, -2), hour(kmip.AttributeDeactivationDate, -1)), now)
	if err != nil {
		t.Fatal(err)
	}
	old.ID = "old"
	if err := old.Revoke(kmip.Revocation{Reason: kmip.KeyCompromise}, now, now); err != nil {
		t.Fatal(err)
	}
	offset := 10 * time.Hour
	for title, c := range map[string]struct {
		offset   *time.Duration
		template []kmip.Attribute
		dates    [4]int
	}{
		"the same dates": {nil, nil, [4]int{-4, -3, -2, -1}},
		"an offset":      {&offset, nil, [4]int{10, 11, 12, 13}},
		"no offset":      {new(time.Duration), nil, [4]int{0, 1, 2, 3}},
		"dates given":    {nil, []kmip.Attribute{hour(kmip.AttributeDeactivationDate, 9)}, [4]int{-4, -3, -2, 9}},
	} {
		next, err := old.Replacement(c.offset, append(c.template, name("new"), given(kmip.AttributeContactInformation, kmip.Text("ann"))), now)
		if err != nil {
			t.Errorf("%s: %v", title, err)
			continue
		}
		got := [4]time.Time{next.ActivationDate, next.ProcessStartDate, next.ProtectStopDate, next.DeactivationDate}
		want := [4]time.Time{at(c.dates[0]), at(c.dates[1]), at(c.dates[2]), at(c.dates[3])}
		if got != want {
			t.Errorf("%s: dates %v, want %v", title, got, want)
		}
		next.ID = "new"
		before := old
		if err := before.HandOver(&next, now); err != nil {
			t.Fatal(err)
		}
		if names := next.Names(); !slices.Equal(names, []string{"db", "db2", "new"}) || len(before.Names()) != 0 {
			t.Errorf("%s: the new key has the names %q, the old one %q", title, names, before.Names())
		}
		for which, a := range map[string][]kmip.Attribute{
			"old": before.Attributes([]string{kmip.AttributeLink}, now), "new": next.Attributes([]string{kmip.AttributeLink}, now),
		} {
			if len(a) != 1 || a[0].Value.Fields[1].Value.Text == which {
				t.Errorf("%s: the %s key's links are %+v", title, which, a)
			}
		}
		all := next.Attributes([]string{"x-a", kmip.AttributeContactInformation}, now)
		if len(all) != 3 || all[1].Index != 1 || all[2].Value.Text != "ann" {
			t.Errorf("%s: %+v", title, all)
		}
		if next.Revocation != nil || !next.CompromiseDate.IsZero() || next.Served || !next.InitialDate.Equal(now.Truncate(time.Second)) {
			t.Errorf("%s: the new key remembers the old one's life: %+v", title, next)
		}
		if got := old.Names(); len(got) != 2 {
			t.Errorf("%s: the copy's names left the original too: %q", title, got)
		}
	}
	if _, err := old.Replacement(&offset, []kmip.Attribute{hour(kmip.AttributeActivationDate, 0)}, now); fault.KindOf(err) != fault.Malformed {
		t.Errorf("offset and dates: %v, want Malformed", err)
	}
	if _, err := old.Replacement(nil, []kmip.Attribute{hour(kmip.AttributeDeactivationDate, -9)}, now); fault.KindOf(err) != fault.Invalid {
		t.Errorf("dates out of order: %v, want Invalid", err)
	}
	gone := old
	if err := gone.Destroy(now); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Replacement(nil, nil, now); fault.KindOf(err) != fault.Denied {
		t.Errorf("a destroyed key: %v, want Denied", err)
	}
	if err := gone.HandOver(&kmip.Object{}, now); fault.KindOf(err) != fault.Denied {
		t.Errorf("names of a destroyed key: %v, want Denied", err)
	}
	if _, err := (&kmip.Object{Type: kmip.SecretData}).Replacement(nil, nil, now); fault.KindOf(err) != fault.Denied {
		t.Errorf("secret data: %v, want Denied", err)
	}
}
