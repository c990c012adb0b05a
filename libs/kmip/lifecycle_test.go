package kmip_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 999, time.UTC)

func template(more ...kmip.Attribute) []kmip.Attribute {
	return append([]kmip.Attribute{
		{Name: kmip.AttributeCryptographicAlgorithm, Value: kmip.Enum(kmip.AES)},
		{Name: kmip.AttributeCryptographicUsageMask, Value: kmip.Int(12)},
		{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)},
	}, more...)
}

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

func TestActivationDateMovesTheState(t *testing.T) {
	at := func(d time.Duration) kmip.Attribute {
		return kmip.Attribute{Name: kmip.AttributeActivationDate, Value: kmip.Time(now.Add(d))}
	}
	past, err := kmip.NewObject(kmip.SymmetricKey, template(at(-time.Hour)), now)
	if err != nil || past.Current(now) != kmip.Active {
		t.Errorf("activation date passed: %s, %v", past.Current(now), err)
	}
	future, err := kmip.NewObject(kmip.SymmetricKey, template(at(time.Hour)), now)
	if err != nil || future.Current(now) != kmip.PreActive || future.Current(now.Add(2*time.Hour)) != kmip.Active {
		t.Errorf("activation date ahead: %s then %s, %v", future.Current(now), future.Current(now.Add(2*time.Hour)), err)
	}
	if err := future.Destroy(now.Add(2 * time.Hour)); fault.KindOf(err) != fault.Denied {
		t.Errorf("Destroy after the activation date: %v, want Denied", err)
	}
}

func TestAttributesOfAFreshObject(t *testing.T) {
	o, err := kmip.NewObject(kmip.SymmetricKey, template(), now)
	if err != nil {
		t.Fatal(err)
	}
	if got := o.Attributes([]string{"x-Vendor", "Activation Date"}); len(got) != 0 {
		t.Errorf("unset names gave %+v", got)
	}
	if got := o.Attributes([]string{"State"}); len(got) != 1 || got[0].Value.Number != int64(kmip.PreActive) {
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
		"read-only":       {kmip.Attribute{Name: kmip.AttributeState, Value: kmip.Enum(kmip.Active)}, fault.Denied},
		"single instance": {kmip.Attribute{Name: kmip.AttributeCryptographicLength, Value: kmip.Int(256)}, fault.Illegal},
		"with an index":   {kmip.Attribute{Name: "x-Name", Index: 5, Value: kmip.Text("vm")}, fault.Invalid},
		"with a NUL":      {kmip.Attribute{Name: "x-Name", Value: kmip.Struct(kmip.Field{Value: kmip.Text("a\x00b")})}, fault.Invalid},
		"unknown":         {kmip.Attribute{Name: "Colour", Value: kmip.Text("red")}, fault.Invalid},
	} {
		if _, err := o.AddAttribute(c.a, now); fault.KindOf(err) != c.want || err == nil {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}
