package wire

import (
	"testing"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// TestAttributesByVersion holds that an answer shows no attribute that its
// version doesn't know.
func TestAttributesByVersion(t *testing.T) {
	for name, since := range map[string]int32{"State": 0, "x-Name": 0, "Fresh": 1, "Original Creation Date": 2, "Random Number Generator": 3, "Sensitive": 4} {
		for _, v := range versions {
			var a answer
			a.open(v)
			before := a.Len()
			if err := a.putAttribute(&kmip.Attribute{Name: name, Value: kmip.Int(1)}); err != nil {
				t.Fatal(err)
			}
			if shown := a.Len() > before; shown != (v.minor >= since) {
				t.Errorf("1.%d shows %s: %t", v.minor, name, shown)
			}
		}
	}
}
