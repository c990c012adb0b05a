package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrSeal is returned when a sealed value does not open: it was made for
// another purpose or owner, with a key that the Keyring doesn't hold, or was
// damaged.
var ErrSeal = errors.New("secret: sealed value does not open")

const (
	sealFormat  = 1 // first byte of every sealed value
	sealIDBytes = 8
)

// Keyring is the operator's set of sealing keys: the first seals, all open.
// It is safe for concurrent use and never changes; a rotated set is a new
// Keyring.
type Keyring struct {
	keys []sealingKey
}

type sealingKey struct {
	id  [sealIDBytes]byte
	key []byte
}

// ParseKeyring reads base64 keys of 32 bytes, one per line or separated by
// commas; the first one seals. Blank lines and lines that begin with # are
// skipped.
func ParseKeyring(text string) (*Keyring, error) {
	var ring Keyring
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ',' || r == '\r' }) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("sealing key %d: want 32 bytes in base64; make one with `openssl rand -base64 32`", len(ring.keys)+1)
		}
		sum := sha256.Sum256(key)
		k := sealingKey{key: key}
		copy(k.id[:], sum[:])
		ring.keys = append(ring.keys, k)
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("no sealing key: make one with `openssl rand -base64 32`")
	}
	return &ring, nil
}

// Seal encrypts plaintext with AES-256-GCM for one purpose ("api-key") and one
// owner (an instance id); both are authenticated and each purpose has a subkey
// of its own. The result begins with a format byte and the id of the key.
func (r *Keyring) Seal(purpose, owner string, plaintext *Bytes) ([]byte, error) {
	k := r.keys[0]
	aead, err := k.aead(purpose)
	if err != nil {
		return nil, err
	}
	head := append([]byte{sealFormat}, k.id[:]...)
	return aead.Seal(head, nil, plaintext.Reveal(), sealContext(head, purpose, owner)), nil //nolint:gosec // nil: the nonce is made inside
}

// Open is Seal's inverse; it fails with ErrSeal.
func (r *Keyring) Open(purpose, owner string, sealed []byte) (*Bytes, error) {
	const head = 1 + sealIDBytes
	if len(sealed) < head || sealed[0] != sealFormat {
		return nil, ErrSeal
	}
	for _, k := range r.keys {
		if string(k.id[:]) != string(sealed[1:head]) {
			continue
		}
		aead, err := k.aead(purpose)
		if err != nil {
			return nil, err
		}
		plain, err := aead.Open(nil, nil, sealed[head:], sealContext(sealed[:head], purpose, owner))
		if err != nil {
			return nil, ErrSeal
		}
		return Of(plain), nil
	}
	return nil, fmt.Errorf("%w: sealed with key %s, which the set does not hold", ErrSeal, hex.EncodeToString(sealed[1:head]))
}

// aead makes the nonce itself: the FIPS 140-3 module in its strict mode
// refuses nonces that a caller chose.
func (k sealingKey) aead(purpose string) (cipher.AEAD, error) {
	sub, err := hkdf.Key(sha256.New, k.key, nil, "kmip-for-vmware/seal/1/"+purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func sealContext(head []byte, purpose, owner string) []byte {
	return fmt.Appendf(append([]byte(nil), head...), "%d:%s%d:%s", len(purpose), purpose, len(owner), owner)
}
