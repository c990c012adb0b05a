package engine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/kmip"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// EnvelopeFormat is the version of the envelope that this program writes.
const EnvelopeFormat = 1

// MaxEnvelope is the largest payload of a standard key, in bytes of base64
// (Key Protect API v2, limits).
const MaxEnvelope = 7500

// StandardKeyPrefix begins the name of every standard key that holds a KEK;
// the unique identifier that VMware knows follows.
const StandardKeyPrefix = "vmware_kmip_"

// Envelope is the payload of a standard key: a wrapped KEK and enough beside
// it to serve the key and to write its ledger row again.
type Envelope struct {
	Format   int         `json:"format"`
	Tenant   tenant.ID   `json:"tenant"`
	Object   kmip.Object `json:"object"` // as it was when the key was made
	Location Location    `json:"location"`
	Wrapped  Wrapped     `json:"wrapped"`
}

// Encode returns the envelope as JSON, or an error of kind Invalid if a standard
// key can't hold it.
func (e Envelope) Encode() ([]byte, error) {
	payload, err := json.Marshal(e)
	if err == nil && !fits(len(payload)) {
		err = errTooLarge
	}
	return payload, err
}

var errTooLarge = fault.New(fault.Invalid, "The object and its attributes are larger than the key manager can hold.")

// fits reports whether a standard key can hold so many bytes.
func fits(bytes int) bool { return base64.StdEncoding.EncodedLen(bytes) <= MaxEnvelope }

// record returns the row that an envelope tells of, which is in a standard key.
func (e Envelope) record(ref KeyRef) Record {
	e.Object.Served = true // for all that is known
	return Record{Object: e.Object, Phase: Live, Location: e.Location, KeyRef: ref}
}

// DecodeEnvelope reads an envelope of the object id, strictly. It does not
// check the tenant: only unwrap proves that.
func DecodeEnvelope(payload []byte, id kmip.ObjectID) (Envelope, error) {
	if len(payload) > MaxEnvelope {
		return Envelope{}, errors.New("envelope: larger than a standard key may be")
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(payload, &version); err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	if version.Format != EnvelopeFormat {
		return Envelope{}, fmt.Errorf("envelope: format %d is not known to this version", version.Format)
	}
	var e Envelope
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	if e.Object.ID != id {
		return Envelope{}, errors.New("envelope: made for another unique identifier")
	}
	return e, nil
}
