"""The scripts that change sessions, in Lua. Offsets are those of `fields`, plus one."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A script, called by its digest.

    Attributes:
        sha: hexadecimal SHA-1 of the text.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())

    def on(self, keys: Sequence[bytes], *arguments: bytes | str | int) -> tuple[bytes | str | int, ...]:
        """The command that calls the script."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


# True if a session is there at the time `now`, a double.
_LIVES = """
local function lives(head, now)
  return #head > 0 and struct.unpack('<d', head, 26) > struct.unpack('<d', now)
end
"""

# KEYS: sessions. ARGV: the time, and for each session its change and its new state. A change is: the mark that the
# session must have (8 bytes), flags (1), the new mark, step, expiry and digest (40), milliseconds to live (digits).
# Returns for each: 1 it has advanced, now or by an earlier call, 0 it has not, 2 its states have another size.
# Nothing grows, so that it is allowed when the memory is full. What an earlier call has done is touched once more: WAIT
# waits for what its own connection has written.
ADVANCE = Script(
    "#!lua flags=allow-oom"
    + _LIVES
    + """
local outcomes = {}
for i, key in ipairs(KEYS) do
  local change, state = ARGV[2 * i], ARGV[2 * i + 1]
  local head = redis.call('GETRANGE', key, 0, 54)
  local outcome = 0
  if lives(head, ARGV[1]) then
    local mark = string.sub(head, 10, 17)
    if mark == string.sub(change, 1, 8) then
      local size, start = struct.unpack('<I4I2', head, 50)
      outcome = 2
      if #state == size then
        local slot = 1 - string.byte(head) % 2
        redis.call('SETRANGE', key, start + slot * size, state)
        local flags = string.char(string.byte(change, 9) + slot)
        redis.call('SETRANGE', key, 0, flags .. string.sub(head, 18, 25) .. string.sub(change, 10, 49))
        redis.call('PEXPIRE', key, string.sub(change, 50))
        outcome = 1
      end
    elseif mark == string.sub(change, 10, 17) then
      redis.call('PEXPIRE', key, string.sub(change, 50))
      outcome = 1
    end
  end
  outcomes[i] = outcome
end
return outcomes
"""
)

# KEYS: a session. ARGV: the time, the new value, milliseconds to live, and the mark that the session must have, or
# nothing if there must be none. Returns 1 if the value is there now, by this call or by an earlier one, else 0. What
# an earlier call has put is touched once more.
PUT = Script(
    "#!lua"
    + _LIVES
    + """
local head = redis.call('GETRANGE', KEYS[1], 0, 54)
local mark = lives(head, ARGV[1]) and string.sub(head, 10, 17) or ''
if mark == string.sub(ARGV[2], 10, 17) then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return 1
end
if mark ~= ARGV[4] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
)

# KEYS: a session. Returns it, after a write that changes nothing: only such a one can be waited for on replicas.
CONFIRM = Script(
    """#!lua flags=allow-oom
local value = redis.call('GET', KEYS[1])
if value then redis.call('PEXPIRE', KEYS[1], redis.call('PTTL', KEYS[1])) end
return value
"""
)

# KEYS: the ids, dues and bytes of an owner. An entry of the ids is an id, a zero, and the bytes of both its states.
_ENTRIES = """
local function entry_of(id)
  local found = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. id .. '\\0', '(' .. id .. '\\1', 'LIMIT', 0, 1)[1]
  return found, found and tonumber(string.sub(found, #id + 2)) or 0
end
local function count(bytes)
  if bytes ~= 0 then redis.call('INCRBY', KEYS[3], string.format('%d', bytes)) end
end
local function add(id, bytes, due)
  redis.call('ZADD', KEYS[1], 0, id .. '\\0' .. bytes)
  redis.call('ZADD', KEYS[2], due, id)
  count(tonumber(bytes))
end
local function remove(id)
  local entry, bytes = entry_of(id)
  if entry then redis.call('ZREM', KEYS[1], entry) end
  redis.call('ZREM', KEYS[2], id)
  count(-bytes)
end
"""

# ARGV: an id, its bytes, when it is due, and the most sessions and bytes of the owner. Returns 1 if it was added, 0 if
# it may be but was there already, and else what the owner holds beside it: sessions and bytes.
RESERVE = Script(
    "#!lua"
    + _ENTRIES
    + """
local entry, own = entry_of(ARGV[1])
local number, held = redis.call('ZCARD', KEYS[1]), tonumber(redis.call('GET', KEYS[3]) or 0) - own
if entry then number = number - 1 end
if number + 1 > tonumber(ARGV[4]) or held + tonumber(ARGV[2]) > tonumber(ARGV[5]) then return {number, held} end
if entry then return 0 end
add(ARGV[1], ARGV[2], ARGV[3])
return 1
"""
)

# ARGV: an id, its bytes and when it is due. Sets its entry, whatever there was.
HOLD = Script(
    "#!lua flags=allow-oom"
    + _ENTRIES
    + """
remove(ARGV[1])
add(ARGV[1], ARGV[2], ARGV[3])
return 1
"""
)

# ARGV: the time, and for each session its id and when it is due, or nothing if there is none any more. Removes or
# corrects the entries that are due, and returns how many were removed.
SETTLE = Script(
    "#!lua flags=allow-oom"
    + _ENTRIES
    + """
local removed = 0
for i = 2, #ARGV, 2 do
  local due = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if due and tonumber(due) <= tonumber(ARGV[1]) then
    if ARGV[i + 1] == '' then
      remove(ARGV[i])
      removed = removed + 1
    else
      redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
    end
  end
end
return removed
"""
)

BY_SHA = {one.sha: one for one in (ADVANCE, PUT, CONFIRM, RESERVE, HOLD, SETTLE)}
