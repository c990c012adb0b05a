package oasis

import (
	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// names are those of KMIP 1.4, and the later ones that cases of 2.x have in
// their requests (KMIP 2.1).
var names = func() *ttlv.Registry {
	r := new(ttlv.Registry)
	kmip14.Register(r)
	for tag, name := range map[ttlv.Tag]string{
		0x420125: "Attributes", 0x42013b: "Attribute Reference", 0x42013c: "Current Attribute", 0x42013d: "New Attribute",
		0x420145: "Protection Level", 0x420146: "Protection Period", 0x420147: "Quantum Safe",
		0x420160: "Interop Function", 0x420161: "Interop Identifier",
	} {
		r.RegisterTag(tag, name)
	}
	enumerate(r, 0x420145, map[uint32]string{1: "High", 2: "Low"})
	enumerate(r, 0x420160, map[uint32]string{1: "Begin", 2: "End", 3: "Reset"})
	enumerate(r, kmip14.TagOperation, map[uint32]string{0x31: "Set Attribute", 0x34: "Interop"})
	r.RegisterEnum(0x42013b, r.Tags())
	return r
}()

// enumerate adds values to those that a tag has already.
func enumerate(r *ttlv.Registry, tag ttlv.Tag, values map[uint32]string) {
	all := ttlv.NewEnum()
	if known := r.EnumForTag(tag); known != nil {
		for _, v := range known.Values() {
			name, _ := known.CanonicalName(v)
			all.RegisterValue(v, name)
		}
	}
	for v, name := range values {
		all.RegisterValue(v, name)
	}
	r.RegisterEnum(tag, &all)
}
