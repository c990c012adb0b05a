package oasis

import (
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gemalto/kmip-go/kmip14"
	"github.com/gemalto/kmip-go/ttlv"
)

// element is one item in the XML encoding (KMIP Profiles 1.4).
type element struct {
	XMLName  xml.Name
	Tag      string    `xml:"tag,attr"` // of an element TTLV, which names none
	Type     string    `xml:"type,attr"`
	Value    *string   `xml:"value,attr"`
	Elements []element `xml:",any"`
}

// ReadXML reads a case of alternating RequestMessage and ResponseMessage
// elements, whatever is around them. Responses of KMIP 2.x are left empty.
func ReadXML(file string) (Case, error) {
	c := Case{Name: strings.TrimSuffix(filepath.Base(file), ".xml")}
	f, err := os.Open(file)
	if err != nil {
		return c, err
	}
	defer f.Close()
	messages, err := readMessages(xml.NewDecoder(f))
	if err == nil {
		c.Steps, err = pair(messages)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return c, err
}

func readMessages(d *xml.Decoder) (messages []Item, err error) {
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return messages, nil
		} else if err != nil {
			return nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "RequestMessage" && start.Name.Local != "ResponseMessage" {
			continue
		}
		var e element
		if err := d.DecodeElement(&e, &start); err != nil {
			return nil, err
		}
		m := Item{Tag: kmip14.TagResponseMessage}
		if start.Name.Local == "RequestMessage" || len(messages) == 0 || spoken(messages[0]) { // responses of 2.x have names of their own
			if m, err = e.item(""); err != nil {
				return nil, err
			}
		}
		messages = append(messages, m)
	}
}

// pair makes steps of alternating requests and responses.
func pair(messages []Item) (steps []Step, err error) {
	if len(messages) == 0 || len(messages)%2 != 0 {
		return nil, fmt.Errorf("oasis: %d messages are no pairs", len(messages))
	}
	for n, m := range messages {
		if want := [...]ttlv.Tag{kmip14.TagRequestMessage, kmip14.TagResponseMessage}[n%2]; m.Tag != want {
			return nil, fmt.Errorf("oasis: message %d is a %v, want a %v", n+1, m.Tag, want)
		}
		if n%2 == 1 {
			steps = append(steps, Step{Request: messages[n-1], Response: m})
		}
	}
	return steps, nil
}

// item reads an element; attribute is the name that the value of an Attribute
// follows, which says how its enumeration is called.
func (e element) item(attribute string) (i Item, err error) {
	name := e.Tag
	if name == "" {
		name = e.XMLName.Local
	}
	if i.Tag, err = names.ParseTag(name); err != nil {
		return i, err
	}
	if e.Type == "" || e.Type == "Structure" {
		i.structure = true
		for _, c := range e.Elements {
			child, err := c.item(attribute)
			if err != nil {
				return i, err
			}
			if child.Tag == kmip14.TagAttributeName {
				attribute, _ = child.Value.(string)
			}
			i.Items = append(i.Items, child)
		}
		return i, nil
	}
	if e.Value == nil {
		return i, fmt.Errorf("oasis: %s has no value", name)
	}
	if strings.HasPrefix(*e.Value, "$") {
		i.Placeholder = *e.Value
		return i, nil
	}
	i.Value, err = e.value(i.enumeration(attribute))
	if err != nil {
		err = fmt.Errorf("oasis: %s: %w", name, err)
	}
	return i, err
}

// enumeration returns the tag whose enumeration or bit mask a value has.
func (i Item) enumeration(attribute string) ttlv.Tag {
	if i.Tag == kmip14.TagAttributeValue {
		if tag, err := names.ParseTag(ttlv.NormalizeName(attribute)); err == nil {
			return tag
		}
	}
	return i.Tag
}

// value reads the text of a value. Names of attributes were broken over lines
// where the cases were typeset.
func (e element) value(enumeration ttlv.Tag) (any, error) {
	text := *e.Value
	switch e.Type {
	case "TextString":
		if e.XMLName.Local == "AttributeName" {
			text = strings.Join(strings.Fields(text), " ")
		}
		return text, nil
	case "Enumeration":
		n, err := names.ParseEnum(enumeration, text)
		return ttlv.EnumValue(n), err
	case "Integer":
		return names.ParseInt(enumeration, text)
	case "LongInteger":
		return strconv.ParseInt(text, 10, 64)
	case "BigInteger":
		n, ok := new(big.Int).SetString(text, 16)
		if !ok {
			return nil, errors.New("not a big integer")
		}
		return n, nil
	case "Boolean":
		return strconv.ParseBool(text)
	case "ByteString":
		return hex.DecodeString(text)
	case "DateTime":
		t, err := time.Parse(time.RFC3339, text)
		return t.UTC(), err
	case "Interval":
		n, err := strconv.ParseUint(text, 10, 32)
		return time.Duration(n) * time.Second, err
	default:
		return nil, fmt.Errorf("unknown type %s", e.Type)
	}
}
