package control_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kmip-for-vmware/kmip/api"
)

// request returns a certificate signing request in PEM, with extensions that
// nobody shall get.
func request(t *testing.T, key crypto.Signer, subject pkix.Name) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: []string{"kmip-1.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// parse reads one certificate.
func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 {
		t.Fatalf("no single PEM block: %q", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// checkLeaf holds a certificate to what is promised of those signed here.
func checkLeaf(t *testing.T, leaf, authority *x509.Certificate, subject string) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || leaf.Subject.CommonName != subject || leaf.IsCA || len(leaf.DNSNames) > 0 || leaf.SerialNumber.BitLen() < 64 ||
		len(leaf.ExtKeyUsage) != 1 || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("%v; subject %s, serial number %s, usage %v %v, names %v", err, leaf.Subject, leaf.SerialNumber, leaf.KeyUsage, leaf.ExtKeyUsage, leaf.DNSNames)
	}
	if now := time.Now(); leaf.NotAfter.After(now.AddDate(2, 0, 1)) || leaf.NotAfter.Before(now.AddDate(2, 0, -1)) {
		t.Errorf("valid until %s", leaf.NotAfter)
	}
}

// Both vCenter's request and a key pair made here become certificates of one
// authority, which is the instance's own; a list shows them like others, and
// nothing shows a private key again.
func TestSignAndIssue(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a") + "/client_certificates"
	key := ecKey(t, elliptic.P384())
	csr := request(t, key, pkix.Name{CommonName: "kmipClient1", Organization: []string{"VMware"}})
	r := c.call(t, "POST", path+"/sign", object(map[string]any{"name": "signed", "csr": strings.ReplaceAll(csr, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")}))
	signed := read[api.SignedClientCertificate](t, r, http.StatusCreated)
	leaf, authority := parse(t, signed.Certificate), parse(t, signed.AuthorityCertificate)
	checkLeaf(t, leaf, authority, "kmipClient1")
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.Subject.Organization[0] != "VMware" || r.header.Get("Location") != path+"/"+signed.ID {
		t.Errorf("signed %s at %s", leaf.Subject, r.header.Get("Location"))
	}
	unnamed := read[api.SignedClientCertificate](t, c.call(t, "POST", path+"/sign", object(map[string]any{"name": "un named", "csr": request(t, key, pkix.Name{})})), http.StatusCreated)
	checkLeaf(t, parse(t, unnamed.Certificate), authority, "un named")

	r = c.call(t, "POST", path+"/issue", `{"name":"issued"}`)
	issued := read[api.IssuedClientCertificate](t, r, http.StatusCreated)
	if r.header.Get("Cache-Control") != "no-store" || r.header.Get("Location") != path+"/"+issued.ID || issued.AuthorityCertificate != signed.AuthorityCertificate {
		t.Errorf("issued: %v %s", r.header, issued.AuthorityCertificate)
	}
	checkLeaf(t, parse(t, issued.Certificate), authority, "issued")
	if _, err := tls.X509KeyPair([]byte(issued.Certificate), []byte(issued.PrivateKey)); err != nil {
		t.Errorf("certificate and private key: %v", err)
	}
	list := read[api.ClientCertificateCollection](t, c.call(t, "GET", path, ""), http.StatusOK).ClientCertificates
	if len(list) != 3 || list[0].Certificate != signed.Certificate || list[2].Certificate != issued.Certificate || list[2].Fingerprint != issued.Fingerprint || list[2].DaysLeft < 729 {
		t.Errorf("list %+v", list)
	}
	private := strings.Split(issued.PrivateKey, "\n")[2]
	for _, again := range []string{c.call(t, "GET", path, "").body, c.call(t, "GET", path+"/"+issued.ID, "").body, c.log.String(), c.dump(t)} {
		if strings.Contains(again, private) || strings.Contains(again, "PRIVATE") {
			t.Errorf("shows the private key: %.200s", again)
		}
	}
	// The answer with the private key can't be had twice; others can.
	token := c.cloud.token(t, account, nil)
	refusal(t, c.send(t, "POST", c.url+path+"/issue", token, `{"name":"again"}`, "Idempotency-Key", "once"), http.StatusBadRequest, api.ErrorCodeBadRequest, "Idempotency-Key", "does not take")
	body := object(map[string]any{"name": "twice", "csr": csr})
	first, second := c.send(t, "POST", c.url+path+"/sign", token, body, "Idempotency-Key", "once"), c.send(t, "POST", c.url+path+"/sign", token, body, "Idempotency-Key", "once")
	if read[api.SignedClientCertificate](t, first, http.StatusCreated); second.status != first.status || second.body != first.body || second.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("signed twice: %s, %s", first.body, second.body)
	}
	refusal(t, c.call(t, "POST", path+"/issue", `{"name":"issued"}`), http.StatusConflict, api.ErrorCodeAlreadyExists, "name", "Choose another name")

	// Another tenant has an authority of its own.
	token = c.cloud.token(t, stranger, nil)
	theirs := read[api.Instance](t, c.send(t, "POST", c.url+"/v1/instances", token, `{}`), http.StatusAccepted)
	other := read[api.SignedClientCertificate](t, c.send(t, "POST", c.url+"/v1/instances/"+theirs.ID+"/client_certificates/sign", token, object(map[string]any{"name": "signed", "csr": csr})), http.StatusCreated)
	if own := parse(t, other.AuthorityCertificate); own.Equal(authority) || own.Subject.CommonName != "KMIP clients of "+theirs.ID || parse(t, other.Certificate).CheckSignatureFrom(authority) == nil {
		t.Errorf("the other tenant's authority is %s", own.Subject)
	}
	for _, op := range []string{"sign", "issue"} {
		body := object(map[string]any{"name": "x", "csr": csr})
		if op == "issue" {
			body = `{"name":"x"}`
		}
		refusal(t, c.send(t, "POST", c.url+path+"/"+op, token, body), http.StatusNotFound, api.ErrorCodeNotFound, "", "no instance")
	}

	// One that would end before the certificate does is replaced.
	c.sql(t, "UPDATE client_authorities SET not_after = now() + interval '700 days'")
	later := read[api.IssuedClientCertificate](t, c.call(t, "POST", path+"/issue", `{"name":"later"}`), http.StatusCreated)
	if later.AuthorityCertificate == signed.AuthorityCertificate {
		t.Error("an authority outlived by its certificates is still in use")
	}
	checkLeaf(t, parse(t, later.Certificate), parse(t, later.AuthorityCertificate), "later")
}

// However many ask at once for the first certificate, one authority signs all.
func TestOneAuthorityForAll(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a") + "/client_certificates"
	const sides = 4
	authorities := make(chan string, sides)
	t.Run("at once", func(t *testing.T) {
		csr := request(t, ecKey(t, elliptic.P256()), pkix.Name{CommonName: "vc"})
		for n := range sides {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				made := read[api.SignedClientCertificate](t, c.call(t, "POST", path+"/sign", object(map[string]any{"name": strconv.Itoa(n), "csr": csr})), http.StatusCreated)
				checkLeaf(t, parse(t, made.Certificate), parse(t, made.AuthorityCertificate), "vc")
				authorities <- made.AuthorityCertificate
			})
		}
	})
	close(authorities)
	first := <-authorities
	for other := range authorities {
		if other != first {
			t.Error("certificates of two authorities")
		}
	}
}

func TestSigningRequestRefused(t *testing.T) {
	c := start(t)
	path := c.instance(t, "a") + "/client_certificates"
	key := ecKey(t, elliptic.P256())
	good := request(t, key, pkix.Name{CommonName: "vc"})
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte(nil), block.Bytes...)
	forged[strings.Index(string(forged), "vc")] = 'V'
	armoured := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, tc := range map[string]struct {
		csr      string
		code     api.ErrorCode
		sentence string
	}{
		"missing":       {"", api.ErrorCodeMissingValue, "-----BEGIN CERTIFICATE REQUEST-----"},
		"not PEM":       {"hello", api.ErrorCodeInvalidValue, "is not PEM"},
		"too long":      {strings.Repeat("A", 16<<10+1), api.ErrorCodeInvalidValue, "longer than 16384"},
		"a certificate": {certificate(t, key, time.Hour), api.ErrorCodeInvalidValue, "holds a CERTIFICATE."},
		"private key":   {good + armoured("EC PRIVATE KEY", []byte("x")), api.ErrorCodeInvalidValue, "holds a private key"},
		"two":           {good + good, api.ErrorCodeInvalidValue, "more than one"},
		"text behind":   {good + "x", api.ErrorCodeInvalidValue, "beside the PEM"},
		"not DER":       {armoured("CERTIFICATE REQUEST", []byte("x")), api.ErrorCodeInvalidValue, "in PKCS #10"},
		"forged":        {armoured("CERTIFICATE REQUEST", forged), api.ErrorCodeInvalidValue, "signed with its own key"},
		"weak RSA":      {request(t, rsaKey(t, 1024), pkix.Name{}), api.ErrorCodeInvalidValue, "1024 bits; 2048 to 8192"},
		"P-224":         {request(t, ecKey(t, elliptic.P224()), pkix.Name{}), api.ErrorCodeInvalidValue, "curve P-224"},
		"Ed25519":       {request(t, ed, pkix.Name{}), api.ErrorCodeInvalidValue, "key is Ed25519"},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.call(t, "POST", path+"/sign", object(map[string]any{"name": "vc", "csr": tc.csr}))
			refusal(t, r, http.StatusBadRequest, tc.code, "csr", tc.sentence)
		})
	}
	refusal(t, c.call(t, "POST", path+"/issue", `{"name":"a/b"}`), http.StatusBadRequest, api.ErrorCodeInvalidValue, "name", "letters, digits")
	refusal(t, c.call(t, "POST", path+"/issue", `{}`), http.StatusBadRequest, api.ErrorCodeMissingValue, "name", "missing")
	refusal(t, c.call(t, "POST", path+"/issue", `{"name":"a","csr":"x"}`), http.StatusBadRequest, api.ErrorCodeInvalidValue, "csr", "unknown")
	if both := read[api.ErrorContainer](t, c.call(t, "POST", path+"/sign", `{}`), http.StatusBadRequest); len(both.Errors) != 2 {
		t.Errorf("want both problems at once: %+v", both)
	}
	if r := c.call(t, "GET", path, ""); strings.TrimSpace(r.body) != `{"client_certificates":[]}` {
		t.Errorf("a refusal left something: %s", r.body)
	}
	// All curves and lengths that are allowed.
	for name, key := range map[string]crypto.Signer{"P-256": key, "P-521": ecKey(t, elliptic.P521()), "RSA": rsaKey(t, 2048)} {
		made := read[api.SignedClientCertificate](t, c.call(t, "POST", path+"/sign", object(map[string]any{"name": name, "csr": request(t, key, pkix.Name{CommonName: name})})), http.StatusCreated)
		checkLeaf(t, parse(t, made.Certificate), parse(t, made.AuthorityCertificate), name)
	}
}
