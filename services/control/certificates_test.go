package control_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
)

// certificate returns one in PEM for the public key of a signer, as vCenter
// makes them: without SAN and extended key usage. It is valid for a time from
// an hour ago.
func certificate(t *testing.T, key crypto.Signer, valid time.Duration) string {
	t.Helper()
	return issue(t, key.Public(), key, valid)
}

func issue(t *testing.T, public crypto.PublicKey, signer crypto.Signer, valid time.Duration) string {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "kmipClient20261123"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
	}
	parent := &x509.Certificate{Subject: template.Subject}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// authorityOf returns the certificate of an authority with a key usage, in PEM.
func authorityOf(t *testing.T, key crypto.Signer, use x509.KeyUsage) string {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA", Organization: []string{"vcenter.example.com"}}, KeyUsage: use, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func ecKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestClientCertificateLifeCycle(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a")
	text := certificate(t, ecKey(t, elliptic.P256()), time.Hour)
	// Windows line ends and blank lines around are harmless.
	pasted := "\r\n" + strings.ReplaceAll(text, "\n", "\r\n") + "\r\n"
	r := c.call(t, "POST", path+"/client_certificates", object(map[string]any{"name": "vcenter", "certificate": pasted}))
	added := read[api.ClientCertificate](t, r, http.StatusCreated)
	block, _ := pem.Decode([]byte(text))
	sum := sha256.Sum256(block.Bytes)
	if added.Fingerprint != hex.EncodeToString(sum[:]) || added.Certificate != text || added.Name != "vcenter" ||
		r.header.Get("Location") != path+"/client_certificates/"+added.ID ||
		time.Until(added.NotAfter) > time.Hour || time.Until(added.NotAfter) < 50*time.Minute {
		t.Errorf("%s: %s", r.header.Get("Location"), r.body)
	}
	list := read[api.ClientCertificateCollection](t, c.call(t, "GET", path+"/client_certificates", ""), http.StatusOK).ClientCertificates
	if len(list) != 1 || list[0] != added || added.DaysLeft != 0 {
		t.Errorf("list %+v", list)
	}
	token := c.cloud.token(t, account, nil)
	for accept, pem := range map[string]bool{
		"": false, "*/*": false, "application/json, application/x-pem-file": false, "text/html, */*;q=0.1, application/x-pem-file": false,
		"application/x-pem-file": true, "text/plain,application/x-pem-file;q=0.9, application/json": true,
	} {
		r := c.send(t, "GET", c.url+path+"/client_certificates/"+added.ID, token, "", "Accept", accept)
		if !pem {
			if one := read[api.ClientCertificate](t, r, http.StatusOK); one != added {
				t.Errorf("accepting %q: %+v, want %+v", accept, one, added)
			}
			continue
		}
		if r.status != http.StatusOK || r.body != text || r.header.Get("Content-Type") != "application/x-pem-file" || r.header.Get("Content-Disposition") != "attachment; filename=vcenter.pem" {
			t.Errorf("accepting %q: %d %v %s", accept, r.status, r.header, r.body)
		}
	}
	if r := c.call(t, "DELETE", path+"/client_certificates/"+added.ID, ""); r.status != http.StatusNoContent || r.body != "" {
		t.Errorf("delete: %d %q", r.status, r.body)
	}
	for _, id := range []string{added.ID, "x", "sign"} {
		for _, method := range []string{"GET", "DELETE"} {
			refusal(t, c.call(t, method, path+"/client_certificates/"+id, ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "no client certificate")
		}
	}
	if r := c.call(t, "GET", path+"/client_certificates", ""); strings.TrimSpace(r.body) != `{"client_certificates":[]}` {
		t.Errorf("empty list: %s", r.body)
	}
	// Removed, it can be added again.
	read[api.ClientCertificate](t, c.call(t, "POST", path+"/client_certificates", object(map[string]any{"name": "vcenter", "certificate": text})), http.StatusCreated)
}

func TestClientCertificateRefused(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a") + "/client_certificates"
	key := rsaKey(t, 2048)
	good := certificate(t, key, time.Hour)
	taken := certificate(t, key, time.Hour)
	read[api.ClientCertificate](t, c.call(t, "POST", path, object(map[string]any{"name": "taken", "certificate": taken})), http.StatusCreated)

	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	request := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}))
	garbage := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not DER")}))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 9000, 1), E: 65537}
	for name, tc := range map[string]struct {
		name, certificate string
		status            int
		code              api.ErrorCode
		target, sentence  string
	}{
		"no name":          {"", good, 400, api.ErrorCodeMissingValue, "name", "missing or empty"},
		"bad name":         {"a/b", good, 400, api.ErrorCodeInvalidValue, "name", "letters, digits"},
		"no certificate":   {"a", "", 400, api.ErrorCodeMissingValue, "certificate", "is missing"},
		"blank":            {"a", " \n", 400, api.ErrorCodeMissingValue, "certificate", "is missing"},
		"not PEM":          {"a", "hello", 400, api.ErrorCodeInvalidValue, "certificate", "is not PEM"},
		"too long":         {"a", strings.Repeat("A", 16<<10+1), 400, api.ErrorCodeInvalidValue, "certificate", "longer than 16384"},
		"private key":      {"a", private, 400, api.ErrorCodeInvalidValue, "certificate", "holds a private key. Paste the certificate"},
		"with private key": {"a", good + private, 400, api.ErrorCodeInvalidValue, "certificate", "holds a private key"},
		"request":          {"a", request, 400, api.ErrorCodeInvalidValue, "certificate", "holds a CERTIFICATE REQUEST"},
		"chain":            {"a", good + taken, 400, api.ErrorCodeInvalidValue, "certificate", "more than one PEM block. Paste the client's own certificate alone, without a chain. vCenter's way `Root CA` is not offered"},
		"vCenter's root":   {"a", authorityOf(t, key, x509.KeyUsageCertSign|x509.KeyUsageCRLSign), 400, api.ErrorCodeInvalidValue, "certificate", "Use one of the other three: add the vCenter certificate, alone; have vCenter's new CSR signed by this instance; or"},
		"text behind":      {"a", good + "x", 400, api.ErrorCodeInvalidValue, "certificate", "beside the PEM"},
		"text before":      {"a", "subject=x\n" + good, 400, api.ErrorCodeInvalidValue, "certificate", "beside the PEM"},
		"not DER":          {"a", garbage, 400, api.ErrorCodeInvalidValue, "certificate", "not an X.509"},
		"expired":          {"a", certificate(t, key, -time.Minute), 400, api.ErrorCodeInvalidValue, "certificate", "expired at"},
		"weak RSA":         {"a", issue(t, weak, key, time.Hour), 400, api.ErrorCodeInvalidValue, "certificate", "RSA key has 1024 bits; 2048 to 8192"},
		"huge RSA":         {"a", issue(t, huge, key, time.Hour), 400, api.ErrorCodeInvalidValue, "certificate", "RSA key has 9001 bits"},
		"P-224":            {"a", certificate(t, ecKey(t, elliptic.P224()), time.Hour), 400, api.ErrorCodeInvalidValue, "certificate", "curve P-224"},
		"Ed25519":          {"a", certificate(t, ed, time.Hour), 400, api.ErrorCodeInvalidValue, "certificate", "key is Ed25519"},
		"name taken":       {"taken", good, 409, api.ErrorCodeAlreadyExists, "name", "Choose another name"},
		"certificate here": {"a", taken, 409, api.ErrorCodeAlreadyExists, "certificate", "Make a new certificate in vCenter"},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.call(t, "POST", path, object(map[string]any{"name": tc.name, "certificate": tc.certificate}))
			refusal(t, r, tc.status, tc.code, tc.target, tc.sentence)
		})
	}
	if list := read[api.ClientCertificateCollection](t, c.call(t, "GET", path, ""), http.StatusOK); len(list.ClientCertificates) != 1 {
		t.Errorf("a refused certificate was stored: %+v", list)
	}
	// What calls itself an authority may be a client all the same: vCenter and
	// openssl sign their own.
	for name, use := range map[string]x509.KeyUsage{"no usage": 0, "both": x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, "encipherment": x509.KeyUsageCertSign | x509.KeyUsageKeyEncipherment} {
		body := object(map[string]any{"name": name, "certificate": authorityOf(t, key, use)})
		read[api.ClientCertificate](t, c.call(t, "POST", path, body), http.StatusCreated)
	}
	both := read[api.ErrorContainer](t, c.call(t, "POST", path, `{}`), http.StatusBadRequest)
	if len(both.Errors) != 2 {
		t.Errorf("want both problems at once: %+v", both)
	}
}

// A certificate that another account holds is refused without a hint at whom.
func TestClientCertificateOfAnotherAccount(t *testing.T) {
	c := start(t)
	text := certificate(t, rsaKey(t, 2048), time.Hour)
	body := object(map[string]any{"name": "vc", "certificate": text})
	holder := c.instance(t, "holder-instance")
	read[api.ClientCertificate](t, c.call(t, "POST", holder+"/client_certificates", body), http.StatusCreated)

	token := c.cloud.token(t, stranger, nil)
	made := read[api.Instance](t, c.send(t, "POST", c.url+"/v1/instances", token, `{}`), http.StatusAccepted)
	path := c.url + "/v1/instances/" + made.ID + "/client_certificates"
	r := c.send(t, "POST", path, token, body)
	refusal(t, r, http.StatusConflict, api.ErrorCodeAlreadyExists, "certificate", "Make a new certificate in vCenter")
	if strings.Contains(r.body, account) || strings.Contains(r.body, "holder") || strings.Contains(r.body, strings.TrimPrefix(holder, "/v1/instances/")) {
		t.Errorf("names the holder: %s", r.body)
	}
	// The holder's removal frees it.
	list := read[api.ClientCertificateCollection](t, c.call(t, "GET", holder+"/client_certificates", ""), http.StatusOK)
	if r := c.call(t, "DELETE", holder+"/client_certificates/"+list.ClientCertificates[0].ID, ""); r.status != http.StatusNoContent {
		t.Fatalf("delete: %d", r.status)
	}
	read[api.ClientCertificate](t, c.send(t, "POST", path, token, body), http.StatusCreated)
}

// A rotated certificate stays beside its successor, and says when it goes.
func TestClientCertificateRotation(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a") + "/client_certificates"
	body := func(name string) string {
		return object(map[string]any{"name": name, "certificate": certificate(t, ecKey(t, elliptic.P256()), 100*24*time.Hour)})
	}
	old := read[api.ClientCertificate](t, c.call(t, "POST", path, body("old")), http.StatusCreated)
	r := c.call(t, "POST", path+"/"+old.ID+"/rotate", body("new"))
	next := read[api.ClientCertificate](t, r, http.StatusCreated)
	if next.Name != "new" || r.header.Get("Location") != path+"/"+next.ID || next.ReplacedBy != nil || next.DaysLeft != 99 {
		t.Errorf("%s: %s", r.header.Get("Location"), r.body)
	}
	shown := func(used, when string) {
		t.Helper()
		got := read[api.ClientCertificate](t, c.call(t, "GET", path+"/"+old.ID, ""), http.StatusOK)
		if got.ReplacedBy == nil || *got.ReplacedBy != next.ID || got.RemovedWhen == nil || *got.RemovedWhen != when {
			t.Errorf("%s: %+v, want replaced by %s and removed: %s", used, got, next.ID, when)
		}
	}
	shown("the successor is unused", "Once the certificate that replaces it has been used and this one was not for 7 days.")
	const use = "UPDATE client_certificates SET first_used_at = $1, last_used_at = $1, last_used_from = '192.0.2.1' WHERE id = $2"
	c.postgres(t, use, "2040-01-02T03:04:05Z", next.ID)
	c.postgres(t, use, "2040-02-03T04:05:06Z", old.ID)
	shown("both are used", "After 2040-02-10T04:05:06Z, unless it is used before.")
	got := read[api.ClientCertificate](t, c.call(t, "GET", path+"/"+old.ID, ""), http.StatusOK)
	if got.LastUsedFrom == nil || *got.LastUsedFrom != "192.0.2.1" || got.FirstUsedAt == nil || got.LastUsedAt == nil || got.LastUsedAt.Format(time.RFC3339) != "2040-02-03T04:05:06Z" {
		t.Errorf("used: %+v", got)
	}

	refusal(t, c.call(t, "POST", path+"/"+old.ID+"/rotate", body("newer")), http.StatusConflict, api.ErrorCodeInvalidState, "", "Rotate that one")
	refusal(t, c.call(t, "POST", path+"/"+next.ID+"/rotate", body("old")), http.StatusConflict, api.ErrorCodeAlreadyExists, "name", "Choose another name")
	refusal(t, c.call(t, "POST", path+"/"+next.ID+"/rotate", object(map[string]any{"name": "newer", "certificate": old.Certificate})), http.StatusConflict, api.ErrorCodeAlreadyExists, "certificate", "Make a new certificate in vCenter")
	refusal(t, c.call(t, "POST", path+"/"+next.ID+"/rotate", object(map[string]any{"name": "newer", "certificate": old.Certificate + next.Certificate})), http.StatusBadRequest, api.ErrorCodeInvalidValue, "certificate", "more than one")
	token := c.cloud.token(t, stranger, nil)
	theirs := read[api.Instance](t, c.send(t, "POST", c.url+"/v1/instances", token, `{}`), http.StatusAccepted)
	for _, foreign := range []string{path + "/" + next.ID, "/v1/instances/" + theirs.ID + "/client_certificates/" + next.ID} {
		refusal(t, c.send(t, "POST", c.url+foreign+"/rotate", token, body("newer")), http.StatusNotFound, api.ErrorCodeNotFound, "", "")
		refusal(t, c.send(t, "GET", c.url+foreign, token, ""), http.StatusNotFound, api.ErrorCodeNotFound, "", "")
	}
	if list := read[api.ClientCertificateCollection](t, c.call(t, "GET", path, ""), http.StatusOK).ClientCertificates; len(list) != 2 {
		t.Errorf("%d certificates, want 2", len(list))
	}
}
