package kmip

import "time"

// Tags of the members of the structured attributes (KMIP 1.4, 9.1.3.1).
const (
	tagDigestValue      = 0x420035
	tagHashingAlgorithm = 0x420038
	tagKeyFormatType    = 0x420042
	tagRevocationReason = 0x420082
	tagRevocationText   = 0x420080
)

// Values inside Digest (KMIP 1.4, 9.1.3.2.16 and 9.1.3.2.3).
const (
	hashSHA256   uint32 = 6
	keyFormatRaw uint32 = 1
)

// Attributes returns the attributes with the given names, in that order, or
// all of them in a fixed order without names. State is as stored: see
// Current. A name without a value gives nothing.
func (o *Object) Attributes(names []string) []Attribute {
	all := o.all()
	if len(names) == 0 {
		return all
	}
	var out []Attribute
	for _, n := range names {
		for _, a := range all {
			if a.Name == n {
				out = append(out, a)
			}
		}
	}
	return out
}

func (o *Object) all() []Attribute {
	out := []Attribute{
		{Name: AttributeUniqueIdentifier, Value: Text(string(o.ID))},
		{Name: AttributeObjectType, Value: Enum(o.Type)},
		{Name: AttributeCryptographicAlgorithm, Value: Enum(o.Algorithm)},
		{Name: AttributeCryptographicLength, Value: Int(o.Length)},
		{Name: AttributeCryptographicUsageMask, Value: Int(int32(o.UsageMask))},
		{Name: AttributeState, Value: Enum(o.State)},
		{Name: AttributeDigest, Value: Struct(
			Field{tagHashingAlgorithm, Enum(hashSHA256)},
			Field{tagDigestValue, Value{Type: ByteString, Bytes: o.Digest}},
			Field{tagKeyFormatType, Enum(keyFormatRaw)},
		)},
		{Name: AttributeInitialDate, Value: Time(o.InitialDate)},
		{Name: AttributeLastChangeDate, Value: Time(o.LastChangeDate)},
	}
	dates := []struct {
		name string
		t    time.Time
	}{
		{AttributeActivationDate, o.ActivationDate},
		{AttributeDeactivationDate, o.DeactivationDate},
		{AttributeDestroyDate, o.DestroyDate},
		{AttributeCompromiseOccurrence, o.CompromiseOccurrenceDate},
		{AttributeCompromiseDate, o.CompromiseDate},
	}
	for _, d := range dates {
		if !d.t.IsZero() {
			out = append(out, Attribute{Name: d.name, Value: Time(d.t)})
		}
	}
	if r := o.Revocation; r != nil {
		fields := []Field{{tagRevocationReason, Enum(r.Reason)}}
		if r.Message != "" {
			fields = append(fields, Field{tagRevocationText, Text(r.Message)})
		}
		out = append(out, Attribute{Name: AttributeRevocationReason, Value: Struct(fields...)})
	}
	return append(out, o.ClientAttributes...)
}
