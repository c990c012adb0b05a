package kms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/kmip-for-vmware/kmip/services/emulator/jsonhttp"
	"github.com/kmip-for-vmware/kmip/services/emulator/records"
)

// Limits and defaults of import tokens (Key Protect API v2, import tokens; the defaults are a guess).
const (
	minImportSeconds, maxImportSeconds = 300, 86400
	maxRetrievals                      = 500
	defaultImportSeconds               = 600
	defaultRetrievals                  = 1
	importKeyBits                      = 2048
)

// importAlgorithm is the only one served: RSAES_OAEP_SHA_1 of HPCS is not.
const importAlgorithm = "RSAES_OAEP_SHA_256"

// importTokenID is the record of an instance's import token: there is one at a time.
const importTokenID = "token"

// importToken is a key pair for the transport of root key material, and a nonce that proves that the
// material arrived whole.
type importToken struct {
	ID        string    `json:"id"`
	Private   []byte    `json:"private"` // PKCS #8
	Nonce     []byte    `json:"nonce"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	Allowed   int       `json:"allowed"`
	Remaining int       `json:"remaining"`
}

func (importToken) String() string   { return "[import token]" }
func (importToken) GoString() string { return "[import token]" }

// createImportToken replaces the instance's import token.
func (c *call) createImportToken() (answer, error) {
	req := struct {
		MaxAllowedRetrievals int `json:"maxAllowedRetrievals"`
		Expiration           int `json:"expiration"` // seconds
	}{defaultRetrievals, defaultImportSeconds}
	if len(c.body) > 0 {
		if err := jsonhttp.Decode(c.body, &req); err != nil {
			return answer{}, bodyError("The body is not a request for an import token.")
		}
	}
	if req.MaxAllowedRetrievals < 1 || req.MaxAllowedRetrievals > maxRetrievals {
		return answer{}, fieldError("maxAllowedRetrievals", "The number is 1 to 500.")
	}
	if req.Expiration < minImportSeconds || req.Expiration > maxImportSeconds {
		return answer{}, fieldError("expiration", "The time is 300 to 86400 seconds.")
	}
	private, err := rsa.GenerateKey(rand.Reader, importKeyBits)
	if err != nil {
		return answer{}, err
	}
	t := importToken{
		ID: uuid.NewString(), Nonce: make([]byte, nonceBytes), Created: c.now,
		Expires: c.now.Add(time.Duration(req.Expiration) * time.Second), Allowed: req.MaxAllowedRetrievals, Remaining: req.MaxAllowedRetrievals,
	}
	rand.Read(t.Nonce)
	if t.Private, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return answer{}, err
	}
	body := map[string]any{
		"id": t.ID, "creationDate": date(t.Created), "expirationDate": date(t.Expires),
		"maxAllowedRetrievals": t.Allowed, "remainingRetrievals": t.Remaining,
	}
	return answer{status: http.StatusOK, body: body}, c.put(bucketImportTokens, importTokenID, t)
}

// importToken is the instance's, if it is still good.
func (c *call) importToken() (importToken, *rsa.PrivateKey, error) {
	t, err := load[importToken](c, bucketImportTokens, importTokenID)
	if errors.Is(err, records.ErrNone) || err == nil && !c.now.Before(t.Expires) {
		return importToken{}, nil, errImportToken
	}
	if err != nil {
		return importToken{}, nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(t.Private)
	if err != nil {
		return importToken{}, nil, err
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return importToken{}, nil, errors.New("the import token's key is no RSA key")
	}
	return t, private, nil
}

// getImportToken gives out the public key and the nonce, as often as was allowed.
func (c *call) getImportToken() (answer, error) {
	t, private, err := c.importToken()
	if err != nil {
		return answer{}, err
	}
	if t.Remaining == 0 {
		return answer{}, errImportToken
	}
	t.Remaining--
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return answer{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	body := map[string]any{
		"id": t.ID, "creationDate": date(t.Created), "expirationDate": date(t.Expires),
		"payload": base64.StdEncoding.EncodeToString(text), "nonce": base64.StdEncoding.EncodeToString(t.Nonce),
	}
	return answer{status: http.StatusOK, body: body}, c.put(bucketImportTokens, importTokenID, t)
}

// sealedImport are the members of a request whose payload is encrypted for the import token.
type sealedImport struct {
	EncryptedNonce      *string `json:"encryptedNonce"`
	IV                  *string `json:"iv"`
	EncryptionAlgorithm *string `json:"encryptionAlgorithm"`
}

// payload decodes imported bytes: 16, 24 or 32 for a root key, up to 7,500 for a standard key. A root
// key's may be encrypted for the import token, with its nonce encrypted by them.
func (c *call) payload(k key, text string, s sealedImport) ([]byte, error) {
	raw, err := decodeField("payload", text, 1, maxPayloadBytes)
	if err != nil {
		return nil, err
	}
	if s != (sealedImport{}) {
		if k.Extractable {
			return nil, fieldError("encryptedNonce", "Only a root key is imported encrypted.")
		}
		if raw, err = c.unseal(raw, s); err != nil {
			return nil, err
		}
	}
	if !k.Extractable && len(raw) != 16 && len(raw) != 24 && len(raw) != 32 {
		return nil, fieldError("payload", "A root key's payload must have 16, 24 or 32 bytes.")
	}
	return raw, nil
}

func (c *call) unseal(raw []byte, s sealedImport) ([]byte, error) {
	if s.EncryptedNonce == nil || s.IV == nil {
		return nil, errNonceIV
	}
	if s.EncryptionAlgorithm == nil || *s.EncryptionAlgorithm != importAlgorithm {
		return nil, fieldError("encryptionAlgorithm", "The algorithm is "+importAlgorithm+".")
	}
	t, private, err := c.importToken()
	if err != nil {
		return nil, err
	}
	root, err := rsa.DecryptOAEP(sha256.New(), nil, private, raw, nil)
	if err != nil {
		return nil, fieldError("payload", "The payload is not encrypted with the import token's key.")
	}
	block, err := aes.NewCipher(root)
	if err != nil {
		return nil, fieldError("payload", "A root key's payload must have 16, 24 or 32 bytes.")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	iv, err := decodeField("iv", *s.IV, nonceBytes, nonceBytes)
	if err != nil {
		return nil, errNonceIV
	}
	sealed, err := decodeField("encryptedNonce", *s.EncryptedNonce, 1, maxPayloadBytes)
	if err != nil {
		return nil, errNonceIV
	}
	if nonce, err := aead.Open(nil, nil, append(iv, sealed...), nil); err != nil || !bytes.Equal(nonce, t.Nonce) {
		return nil, errNonce
	}
	return root, nil
}
