package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
)

// Limits of wrap and unwrap (Key Protect API v2; the plaintext's limit is taken to be a standard
// key's, the number of strings is an older apidocs').
const (
	maxPlaintextBytes = 7500
	maxAADStrings     = 126
	maxAADLength      = 255 // characters of one string
	generatedBytes    = 32  // of a plaintext or key that the service makes
	nonceBytes        = 12
)

// wrapRequest is the body of wrap; without plaintext the service makes one.
type wrapRequest struct {
	Plaintext *string  `json:"plaintext"`
	AAD       []string `json:"aad"`
}

// unwrapRequest is the body of unwrap and rewrap.
type unwrapRequest struct {
	Ciphertext *string  `json:"ciphertext"`
	AAD        []string `json:"aad"`
}

type versionID struct {
	ID string `json:"id"`
}

// actionAnswer is the answer of wrap, unwrap and rewrap; it has no envelope.
type actionAnswer struct {
	Plaintext  string     `json:"plaintext,omitempty"`
	Ciphertext string     `json:"ciphertext,omitempty"`
	KeyVersion versionID  `json:"keyVersion"`
	Rewrapped  *versionID `json:"rewrappedKeyVersion,omitempty"`
}

// sealed is what base64 hides in a ciphertext. Handle is the id of the key version that sealed it.
type sealed struct {
	Ciphertext []byte `json:"ciphertext"`
	IV         []byte `json:"iv"`
	Version    string `json:"version"`
	Handle     string `json:"handle"`
}

const sealedFormat = "4.0.0"

// wrap seals the given plaintext, or one that it makes and returns.
func (c *call) wrap() (answer, error) {
	var req wrapRequest
	if len(c.body) > 0 {
		if err := jsonhttp.Decode(c.body, &req); err != nil {
			return answer{}, bodyError("The body is not a wrap request.")
		}
	}
	k, err := c.rootKey("wrap")
	if err != nil {
		return answer{}, err
	}
	aad, err := encodeAAD(req.AAD)
	if err != nil {
		return answer{}, err
	}
	var out actionAnswer
	var plaintext []byte
	if req.Plaintext == nil {
		plaintext = make([]byte, generatedBytes)
		rand.Read(plaintext)
		out.Plaintext = base64.StdEncoding.EncodeToString(plaintext)
	} else if plaintext, err = decodeField("plaintext", *req.Plaintext, 1, maxPlaintextBytes); err != nil {
		return answer{}, err
	}
	m, err := remembered(c, &c.server.material, bucketMaterial, k.ID)
	if err != nil {
		return answer{}, err
	}
	out.KeyVersion = versionID{k.version().ID}
	out.Ciphertext, err = m.seal(k.version().ID, plaintext, aad)
	return answer{status: http.StatusOK, body: out}, err
}

// unwrap opens a ciphertext of any version of the key. One of an older version comes back sealed by
// the newest as well.
func (c *call) unwrap() (answer, error) {
	k, o, err := c.open("unwrap")
	if err != nil {
		return answer{}, err
	}
	out := actionAnswer{Plaintext: base64.StdEncoding.EncodeToString(o.plaintext), KeyVersion: versionID{o.version}}
	if newest := k.version().ID; o.version != newest {
		out.Rewrapped = &versionID{newest}
		out.Ciphertext, err = o.material.seal(newest, o.plaintext, o.aad)
	}
	return answer{status: http.StatusOK, body: out}, err
}

// rewrap seals the content of a ciphertext anew by the newest version and does not show it.
func (c *call) rewrap() (answer, error) {
	k, o, err := c.open("rewrap")
	if err != nil {
		return answer{}, err
	}
	newest := k.version().ID
	out := actionAnswer{KeyVersion: versionID{o.version}, Rewrapped: &versionID{newest}}
	out.Ciphertext, err = o.material.seal(newest, o.plaintext, o.aad)
	return answer{status: http.StatusOK, body: out}, err
}

// opened is a ciphertext's content, the version that had sealed it, and what sealing again needs.
type opened struct {
	plaintext, aad []byte
	version        string
	material       material
}

func (c *call) open(op string) (key, opened, error) {
	if len(c.body) == 0 {
		return key{}, opened{}, errNoBody
	}
	var req unwrapRequest
	if err := jsonhttp.Decode(c.body, &req); err != nil {
		return key{}, opened{}, bodyError("The body is not an " + op + " request.")
	}
	k, err := c.rootKey(op)
	if err != nil {
		return key{}, opened{}, err
	}
	if req.Ciphertext == nil {
		return key{}, opened{}, fieldError("ciphertext", "The ciphertext is missing.")
	}
	raw, err := decodeField("ciphertext", *req.Ciphertext, 1, maxBodyBytes)
	if err != nil {
		return key{}, opened{}, err
	}
	aad, err := encodeAAD(req.AAD)
	if err != nil {
		return key{}, opened{}, err
	}
	var s sealed
	if err := jsonhttp.Decode(raw, &s); err != nil || s.Version != sealedFormat || len(s.IV) != nonceBytes {
		return key{}, opened{}, errCiphertext
	}
	m, err := remembered(c, &c.server.material, bucketMaterial, k.ID)
	if err != nil {
		return key{}, opened{}, err
	}
	// Material opens, not an id: another root key imported with the same bytes will do. Newest first.
	for i := len(k.Versions) - 1; i >= 0; i-- {
		id := k.Versions[i].ID
		aead, err := cipherOf(m.Versions[id])
		if err != nil {
			return key{}, opened{}, err
		}
		if plaintext, err := aead.Open(nil, nil, append(bytes.Clone(s.IV), s.Ciphertext...), aad); err == nil {
			return k, opened{plaintext, aad, id, m}, nil
		}
	}
	return key{}, opened{}, errCiphertext
}

// rootKey is the key of a call if its kind and state let the call through.
func (c *call) rootKey(op string) (key, error) {
	if c.key.Extractable {
		return key{}, errRootRequired
	}
	return c.key, c.key.allows(op, c.now)
}

// cipherOf is AES-GCM under root key material, with a random nonce in front of each result.
func cipherOf(root []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(root)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (m material) seal(version string, plaintext, aad []byte) (string, error) {
	aead, err := cipherOf(m.Versions[version])
	if err != nil {
		return "", err
	}
	out := aead.Seal(nil, nil, plaintext, aad) //nolint:gosec // Seal draws the nonce itself
	raw, err := json.Marshal(sealed{Ciphertext: out[nonceBytes:], IV: out[:nonceBytes], Version: sealedFormat, Handle: version})
	return base64.StdEncoding.EncodeToString(raw), err
}

// encodeAAD writes the strings so that no two arrays give the same bytes: their number, then each
// with its length in front. No array and an empty one are the same: nothing to authenticate.
func encodeAAD(aad []string) ([]byte, error) {
	if len(aad) > maxAADStrings {
		return nil, fieldError("aad", "There are more than 126 strings.")
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(len(aad)))
	for _, s := range aad {
		if utf8.RuneCountInString(s) > maxAADLength {
			return nil, fieldError("aad", "A string is longer than 255 characters.")
		}
		out = binary.BigEndian.AppendUint32(out, uint32(len(s)))
		out = append(out, s...)
	}
	return out, nil
}

// decodeField decodes standard, padded base64 without white space, of least to most bytes.
func decodeField(field, text string, least, most int) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // the decoder skips line ends
		return nil, fieldError(field, "The field is not base64.")
	}
	if len(raw) < least || len(raw) > most {
		return nil, fieldError(field, "The field's length is out of range.")
	}
	return raw, nil
}
