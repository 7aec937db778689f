package domain

// MaxIDBytes is how many bytes an id, a pool's name or a label's key may have.
const MaxIDBytes = 128

// CheckID says whether id is one: 1 to 128 of A-Z a-z 0-9 . _ : - beginning
// with a letter or a digit. The error names field.
func CheckID(field, id string) error {
	switch {
	case id == "":
		return invalid(field, "must not be empty")
	case len(id) > MaxIDBytes:
		return invalid(field, "is %d bytes long, more than %d", len(id), MaxIDBytes)
	case !isAlphanumeric(id[0]):
		return invalid(field, "must begin with a letter or a digit: %q", id)
	}
	for i := range len(id) {
		if c := id[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != ':' && c != '-' {
			return invalid(field, "may only have letters, digits and . _ : - in it: %q", id)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
