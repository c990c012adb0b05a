package iam_test

import (
	"crypto/rsa"
	"crypto/x509"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/kmip-for-vmware/kmip/libs/fault"
	"github.com/kmip-for-vmware/kmip/libs/iam"
)

const account = "0123456789abcdef0123456789abcdef"

// userClaims are a user's, as IAM writes them.
func userClaims(c *cloud, now time.Time, changes jwt.MapClaims) jwt.MapClaims {
	claims := jwt.MapClaims{
		"iam_id": "IBMid-270004ABCD", "id": "IBMid-270004ABCD", "realmid": "IBMid", "identifier": "270004ABCD",
		"sub": "ada@example.com", "name": "Ada L", "email": "ada@example.com",
		"account": map[string]any{"valid": true, "bss": account, "ims": "17", "frozen": true},
		"iss":     c.URL + "/identity", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": "1",
		"grant_type": "urn:ibm:params:oauth:grant-type:passcode", "scope": "ibm openid",
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

func verifier(t *testing.T, c *cloud, now func() time.Time) *iam.Verifier {
	t.Helper()
	v, err := iam.NewVerifier(t.Context(), iam.Config{URL: c.URL, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerify(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "20261101")
	v, now := verifier(t, c, clock.now), clock.now()
	for name, tc := range map[string]struct {
		changes jwt.MapClaims
		want    iam.Identity
		sorry   string
	}{
		"user": {nil, iam.Identity{
			IAMID: "IBMid-270004ABCD", Account: account, Type: iam.User, Name: "Ada L", Email: "ada@example.com",
		}, ""},
		"service ID": {jwt.MapClaims{"iam_id": "iam-ServiceId-1", "sub_type": "ServiceId", "name": "backup", "email": nil}, iam.Identity{
			IAMID: "iam-ServiceId-1", Account: account, Type: iam.ServiceID, Name: "backup",
		}, ""},
		"a little early":    {jwt.MapClaims{"iat": now.Add(55 * time.Second).Unix(), "name": nil, "email": nil}, iam.Identity{IAMID: "IBMid-270004ABCD", Account: account, Type: iam.User}, ""},
		"a little late":     {jwt.MapClaims{"exp": now.Add(-55 * time.Second).Unix(), "name": nil, "email": nil}, iam.Identity{IAMID: "IBMid-270004ABCD", Account: account, Type: iam.User}, ""},
		"expired":           {jwt.MapClaims{"exp": now.Add(-65 * time.Second).Unix()}, iam.Identity{}, "has expired"},
		"never expires":     {jwt.MapClaims{"exp": nil}, iam.Identity{}, "not one of IAM's"},
		"from the future":   {jwt.MapClaims{"iat": now.Add(65 * time.Second).Unix()}, iam.Identity{}, "issued in the future"},
		"not valid yet":     {jwt.MapClaims{"nbf": now.Add(65 * time.Second).Unix()}, iam.Identity{}, "not valid yet"},
		"another issuer":    {jwt.MapClaims{"iss": "https://iam.test.cloud.ibm.com/identity"}, iam.Identity{}, "another IAM"},
		"no issuer":         {jwt.MapClaims{"iss": nil}, iam.Identity{}, ""},
		"no account":        {jwt.MapClaims{"account": nil}, iam.Identity{}, "not for an account"},
		"an invalid one":    {jwt.MapClaims{"account": map[string]any{"valid": false, "bss": account}}, iam.Identity{}, "not for an account"},
		"no IAM id":         {jwt.MapClaims{"iam_id": nil}, iam.Identity{}, "not one of IAM's"},
		"claim of odd type": {jwt.MapClaims{"account": "x"}, iam.Identity{}, "not one of IAM's"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "20261101", key, userClaims(c, now, tc.changes)))
			if tc.want != (iam.Identity{}) {
				if err != nil || got != tc.want {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			refused(t, err, tc.sorry)
		})
	}
}

func refused(t *testing.T, err error, sentence string) {
	t.Helper()
	if fault.KindOf(err) != fault.Unauthenticated || !strings.Contains(fault.Public(err), sentence) {
		t.Fatalf("got %v: %q; want unauthenticated, %q", err, fault.Public(err), sentence)
	}
}

func TestVerifyRefusesForgedSignatures(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "k")
	v := verifier(t, c, clock.now)
	other := newCloud(t).rollOver(t, "k")
	claims := userClaims(c, clock.now(), nil)
	unnamed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(other)
	if err != nil {
		t.Fatal(err)
	}
	public := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	good := sign(t, jwt.SigningMethodRS256, "k", key, claims)
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"no key id":              unnamed,
		"another key":            sign(t, jwt.SigningMethodRS256, "k", other, claims),
		"none":                   sign(t, jwt.SigningMethodNone, "k", jwt.UnsafeAllowNoneSignatureType, claims),
		"HS256 with public key":  sign(t, jwt.SigningMethodHS256, "k", public, claims),
		"RS512 with the key":     sign(t, jwt.SigningMethodRS512, "k", key, claims),
		"PS256 with the key":     sign(t, jwt.SigningMethodPS256, "k", key, claims),
		"cut off":                good[:len(good)-8],
		"claims of another":      parts[0] + ".e30." + parts[2],
		"expired and mis-signed": sign(t, jwt.SigningMethodRS256, "k", other, userClaims(c, clock.now().Add(-2*time.Hour), nil)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), token)
			refused(t, err, "signature is not valid")
		})
	}
	for name, token := range map[string]string{
		"empty": "", "not a token": "a.b", "with its scheme": "Bearer " + good, "endless": strings.Repeat("a", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), token)
			refused(t, err, "not one of IAM's")
		})
	}
}

func TestVerifyAfterKeyRollOver(t *testing.T) {
	c, clock := newCloud(t), newClock()
	c.rollOver(t, "old")
	v := verifier(t, c, clock.now)
	key := c.rollOver(t, "new")
	claims := userClaims(c, clock.now(), nil)
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "new", key, claims)); err != nil {
		t.Fatal(err)
	}
	before := c.count(&c.reads)
	stranger := newCloud(t).rollOver(t, "k")
	for range 50 {
		_, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "unheard-of", stranger, claims))
		refused(t, err, "does not publish")
	}
	if n := c.count(&c.reads) - before; n > 1 {
		t.Errorf("unknown key ids caused %d reads", n)
	}
}

// TestVerifyDuringKeyRollOver: nobody is refused while the new key is read.
func TestVerifyDuringKeyRollOver(t *testing.T) {
	c, clock := newCloud(t), newClock()
	c.rollOver(t, "old")
	v := verifier(t, c, clock.now)
	key := c.rollOver(t, "new")
	token := sign(t, jwt.SigningMethodRS256, "new", key, userClaims(c, clock.now(), nil))
	before := c.count(&c.reads)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := c.count(&c.reads) - before; n != 1 {
		t.Errorf("%d reads", n)
	}
}

// inside reaches a cloud from a synctest bubble, where sockets can't be waited for.
type inside struct{ *cloud }

func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	i.serve(w, r)
	return w.Result(), nil
}

func TestKeysAreReadAgainAtMostOnceAMinute(t *testing.T) {
	c, stranger := newCloud(t), newCloud(t).rollOver(t, "k")
	old := c.rollOver(t, "old")
	synctest.Test(t, func(t *testing.T) {
		v, err := iam.NewVerifier(t.Context(), iam.Config{URL: c.URL, HTTP: &http.Client{Transport: inside{c}}})
		if err != nil {
			t.Fatal(err)
		}
		verify := func(kid string, key *rsa.PrivateKey) error {
			_, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, kid, key, userClaims(c, time.Now(), nil)))
			return err
		}
		reads := func(want int, when string) {
			t.Helper()
			if n := c.count(&c.reads); n != want {
				t.Fatalf("%d reads %s, want %d", n, when, want)
			}
		}
		reads(1, "at the start")
		for range 50 {
			refused(t, verify("unheard-of", stranger), "does not publish")
			<-time.After(time.Second)
		}
		reads(2, "in the first 50 seconds")
		<-time.After(10 * time.Second)
		rolled := c.rollOver(t, "new")
		if err := verify("new", rolled); err != nil {
			t.Error(err)
		}
		reads(3, "after a minute")

		// A reading that failed is repeated sooner.
		<-time.After(time.Minute)
		rolled = c.rollOver(t, "newer")
		c.set(func() { c.down = true })
		for range 3 {
			if err := verify("newer", rolled); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("got %v, want unavailable", err)
			}
		}
		c.set(func() { c.down = false })
		<-time.After(10 * time.Second)
		if err := verify("newer", rolled); err != nil {
			t.Error(err)
		}
		reads(4, "after a failure")
		for range 3 {
			refused(t, verify("unheard-of", stranger), "does not publish")
			<-time.After(15 * time.Second)
		}
		reads(4, "in the minute after")

		// A key that is withdrawn is forgotten without being missed.
		c.set(func() { c.keys["old"] = old })
		<-time.After(time.Hour)
		if err := verify("old", old); err != nil {
			t.Error(err)
		}
		c.rollOver(t, "newest")
		<-time.After(time.Hour)
		if err := verify("old", old); err == nil {
			t.Error("a withdrawn key still verifies")
		}
	})
}

func TestVerifyWhileIAMIsDown(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "k")
	token := sign(t, jwt.SigningMethodRS256, "k", key, userClaims(c, clock.now(), nil))
	started := verifier(t, c, clock.now)
	c.set(func() { c.down = true })
	if _, err := started.Verify(t.Context(), token); err != nil {
		t.Errorf("keys that were read must serve: %v", err)
	}
	_, err := started.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "rolled", key, userClaims(c, clock.now(), nil)))
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("an unknown key while the keys can't be read: %v, want unavailable", err)
	}

	cold := verifier(t, c, clock.now)
	c.set(func() { c.down = false })
	if _, err := cold.Verify(t.Context(), token); err != nil {
		t.Errorf("the first token after IAM is back fetches the keys: %v", err)
	}
}

func TestVerifyWithoutAnyKeys(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "k")
	token := sign(t, jwt.SigningMethodRS256, "k", key, userClaims(c, clock.now(), nil))
	c.set(func() { c.down = true })
	v := verifier(t, c, clock.now)
	for range 3 {
		if _, err := v.Verify(t.Context(), token); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("got %v, want unavailable", err)
		}
	}
}

func TestVerifyKeepsKeysWhenTheDocumentIsEmpty(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "k")
	v := verifier(t, c, clock.now)
	c.set(func() { c.keys = nil })
	claims := userClaims(c, clock.now(), nil)
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "unknown", key, claims)); err == nil {
		t.Fatal("accepted")
	}
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "k", key, claims)); err != nil {
		t.Errorf("an empty document took the keys away: %v", err)
	}
}

func TestIssuerCanDifferFromTheAddress(t *testing.T) {
	c, clock := newCloud(t), newClock()
	key := c.rollOver(t, "k")
	const issuer = "https://iam.cloud.ibm.com/identity"
	v, err := iam.NewVerifier(t.Context(), iam.Config{URL: c.URL, Issuer: issuer, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "k", key, userClaims(c, clock.now(), jwt.MapClaims{"iss": issuer}))); err != nil {
		t.Error(err)
	}
	_, err = v.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, "k", key, userClaims(c, clock.now(), nil)))
	refused(t, err, "another IAM")
}
