SELECT write_message(gen_random_uuid()::varchar, 'hot-1', 'OrderPlaced', :payload);
