-- Pass calls of the two endpoints and of no other model, by `model_name` in each message of KServe's gRPC protocol
-- (inference.ModelInferRequest, field 1). Runs in Envoy's Lua filter (LuaJIT), before the router.
--
-- A ModelInfer call is buffered and then passed on or answered with PERMISSION_DENIED. In a stream each message is
-- buffered. A message for another model is replaced by one for a model whose name is the reason: Triton answers it with
-- an error inside the stream, and the stream's other requests continue.

local bit = require("bit")

local UNARY = "/inference.GRPCInferenceService/ModelInfer"
local STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
local SERVED = { [UNARY] = "text_to_video", [STREAM] = "text_to_video_stream" }
local MODEL_NAME = 1 -- number of the field
local MAX_MESSAGE_BYTES = 64 * 1024 * 1024
local PREFIX_BYTES = 5 -- of a gRPC message: one byte of flags, four of length
local LENGTH_DELIMITED = 2 -- wire type
local FIXED_BYTES = { [1] = 8, [5] = 4 } -- by wire type

-- Read the varint at `at`. Returns its value and the position after it, or nil if it is no valid varint.
local function read_varint(bytes, at)
  local value, factor = 0, 1
  for place = at, math.min(at + 9, #bytes) do
    local byte = bytes:byte(place)
    value = value + bit.band(byte, 0x7f) * factor
    if byte < 0x80 then
      return value, place + 1
    end
    factor = factor * 128
  end
  return nil
end

-- Read the field at `at`. Returns its number, the position of its content and the position after it, or nil.
local function read_field(bytes, at)
  local tag, content = read_varint(bytes, at)
  if not tag then
    return nil
  end
  local number, wire_type = math.floor(tag / 8), tag % 8
  local after
  if wire_type == LENGTH_DELIMITED then
    local length
    length, content = read_varint(bytes, content)
    after = length and content + length
  elseif wire_type == 0 then
    local _
    _, after = read_varint(bytes, content)
  elseif FIXED_BYTES[wire_type] then
    after = content + FIXED_BYTES[wire_type]
  end
  if not after or after > #bytes + 1 or (number == MODEL_NAME and wire_type ~= LENGTH_DELIMITED) then
    return nil
  end
  return number, content, after
end

-- Return why `message` must not pass, or nil. Every `model_name` must be the served one, since protobuf uses the last.
local function complaint(message, served)
  local at, named = 1, false
  while at <= #message do
    local number, content, after = read_field(message, at)
    if not number then
      return "the message is no ModelInferRequest"
    end
    if number == MODEL_NAME then
      if message:sub(content, after - 1) ~= served then
        return "only the model " .. served .. " is served here by this call"
      end
      named = true
    end
    at = after
  end
  return not named and "the message names no model" or nil
end

-- Read the prefix of a gRPC message. Returns whether it is compressed, and its length in bytes.
local function read_prefix(bytes)
  local flags, a, b, c, d = bytes:byte(1, PREFIX_BYTES)
  return flags ~= 0, ((a * 256 + b) * 256 + c) * 256 + d
end

local function complaint_of_prefix(compressed, length)
  if compressed then
    return "compressed messages are not read here: send them plain"
  elseif length > MAX_MESSAGE_BYTES then
    return "a message of " .. length .. " bytes is too long: up to " .. MAX_MESSAGE_BYTES .. " are taken"
  end
end

local function write_prefix(length)
  local function byte(power)
    return math.floor(length / 256 ^ power) % 256
  end
  return string.char(0, byte(3), byte(2), byte(1), byte(0))
end

-- Make a message whose refusal by Triton contains the reason. The length of a name under 128 bytes takes one byte.
local function refusal(reason)
  local name = ("refused by the proxy (" .. reason):sub(1, 120) .. ")"
  local message = string.char(MODEL_NAME * 8 + LENGTH_DELIMITED, #name) .. name
  return write_prefix(#message) .. message
end

local function check_call(handle, served)
  local body = handle:body()
  local bytes = body and body:getBytes(0, body:length()) or ""
  local reason
  if #bytes < PREFIX_BYTES then
    reason = "the call has no message"
  else
    local compressed, length = read_prefix(bytes)
    reason = complaint_of_prefix(compressed, length)
    if not reason and length ~= #bytes - PREFIX_BYTES then
      reason = "the call has not one message"
    end
    reason = reason or complaint(bytes:sub(PREFIX_BYTES + 1), served)
  end
  if reason then
    handle:respond({
      [":status"] = "200",
      ["content-type"] = "application/grpc",
      ["grpc-status"] = "7",
      ["grpc-message"] = "refused by the proxy: " .. reason,
    })
  end
end

-- Received bytes of a stream that were not passed on yet. They are joined when enough bytes are there, since joining at
-- each chunk would copy a long message thousands of times.
local function new_waiting()
  return { chunks = {}, size = 0, wanted = PREFIX_BYTES, to_skip = 0 }
end

local function join_chunks(waiting)
  local bytes = table.concat(waiting.chunks)
  waiting.chunks, waiting.size = { bytes }, #bytes
  return bytes
end

local function drop_bytes(waiting, count)
  if count == 0 then
    return 0
  end
  local bytes = join_chunks(waiting)
  local dropped = math.min(count, #bytes)
  waiting.chunks, waiting.size = { bytes:sub(dropped + 1) }, #bytes - dropped
  return count - dropped
end

-- Take the next complete message, or its replacement, off `waiting`. Returns nil if more bytes are needed.
local function take_message(waiting, served)
  waiting.to_skip = drop_bytes(waiting, waiting.to_skip)
  if waiting.to_skip > 0 or waiting.size < waiting.wanted then
    return nil
  end
  local bytes = join_chunks(waiting)
  local compressed, length = read_prefix(bytes)
  local reason = complaint_of_prefix(compressed, length)
  if not reason and #bytes < PREFIX_BYTES + length then
    waiting.wanted = PREFIX_BYTES + length
    return nil
  end
  reason = reason or complaint(bytes:sub(PREFIX_BYTES + 1, PREFIX_BYTES + length), served)
  waiting.wanted = PREFIX_BYTES
  waiting.to_skip = drop_bytes(waiting, PREFIX_BYTES + length)
  return reason and refusal(reason) or bytes:sub(1, PREFIX_BYTES + length)
end

-- Pass on the complete messages of a stream, and replace those for other models.
local function check_stream(handle, served)
  local waiting = new_waiting()
  for chunk in handle:bodyChunks() do
    waiting.chunks[#waiting.chunks + 1] = chunk:getBytes(0, chunk:length())
    waiting.size = waiting.size + chunk:length()
    local passed = {}
    repeat
      local message = take_message(waiting, served)
      passed[#passed + 1] = message
    until not message
    chunk:setBytes(table.concat(passed))
  end
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path"):match("^[^?]*") -- a route matches the path with any query
  if path == UNARY then
    check_call(handle, SERVED[path])
  elseif path == STREAM then
    check_stream(handle, SERVED[path])
  end
end
