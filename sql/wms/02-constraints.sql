-- Keys, once the data is in: building them then is several times faster than keeping them while loading.
SET search_path = wms;

ALTER TABLE warehouse ADD PRIMARY KEY (id), ADD UNIQUE (code);
ALTER TABLE zone ADD PRIMARY KEY (id), ADD UNIQUE (warehouse_id, kind);
ALTER TABLE location ADD PRIMARY KEY (id);
ALTER TABLE category ADD PRIMARY KEY (id), ADD UNIQUE (path);
ALTER TABLE supplier ADD PRIMARY KEY (id);
ALTER TABLE product ADD PRIMARY KEY (id), ADD UNIQUE (sku);
ALTER TABLE price_history ADD PRIMARY KEY (product_id, valid_from);
ALTER TABLE customer ADD PRIMARY KEY (id);
ALTER TABLE carrier ADD PRIMARY KEY (id);
ALTER TABLE employee ADD PRIMARY KEY (id);
ALTER TABLE purchase_order ADD PRIMARY KEY (id);
ALTER TABLE purchase_order_line ADD PRIMARY KEY (purchase_order_id, line);
ALTER TABLE lot ADD PRIMARY KEY (id);
ALTER TABLE inventory ADD PRIMARY KEY (location_id, lot_id);
ALTER TABLE sales_order ADD PRIMARY KEY (id);
ALTER TABLE sales_order_line ADD PRIMARY KEY (order_id, line);
ALTER TABLE allocation ADD PRIMARY KEY (order_id, line, location_id, lot_id);
ALTER TABLE shipment ADD PRIMARY KEY (id);
ALTER TABLE shipment_line ADD PRIMARY KEY (shipment_id, line, lot_id);
ALTER TABLE movement ADD PRIMARY KEY (id);

ALTER TABLE zone ADD FOREIGN KEY (warehouse_id) REFERENCES warehouse;
ALTER TABLE location ADD FOREIGN KEY (zone_id) REFERENCES zone;
ALTER TABLE category ADD FOREIGN KEY (parent_id) REFERENCES category;
ALTER TABLE product ADD FOREIGN KEY (category_id) REFERENCES category, ADD FOREIGN KEY (supplier_id) REFERENCES supplier;
ALTER TABLE price_history ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE employee ADD FOREIGN KEY (warehouse_id) REFERENCES warehouse, ADD FOREIGN KEY (manager_id) REFERENCES employee;
ALTER TABLE purchase_order
    ADD FOREIGN KEY (supplier_id) REFERENCES supplier,
    ADD FOREIGN KEY (warehouse_id) REFERENCES warehouse;
ALTER TABLE purchase_order_line
    ADD FOREIGN KEY (purchase_order_id) REFERENCES purchase_order,
    ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE lot
    ADD FOREIGN KEY (product_id) REFERENCES product,
    ADD FOREIGN KEY (purchase_order_id, line) REFERENCES purchase_order_line;
ALTER TABLE inventory ADD FOREIGN KEY (location_id) REFERENCES location, ADD FOREIGN KEY (lot_id) REFERENCES lot;
ALTER TABLE sales_order
    ADD FOREIGN KEY (customer_id) REFERENCES customer,
    ADD FOREIGN KEY (warehouse_id) REFERENCES warehouse;
ALTER TABLE sales_order_line
    ADD FOREIGN KEY (order_id) REFERENCES sales_order,
    ADD FOREIGN KEY (product_id) REFERENCES product;
ALTER TABLE allocation
    ADD FOREIGN KEY (order_id, line) REFERENCES sales_order_line,
    ADD FOREIGN KEY (location_id, lot_id) REFERENCES inventory;
ALTER TABLE shipment ADD FOREIGN KEY (order_id) REFERENCES sales_order, ADD FOREIGN KEY (carrier_id) REFERENCES carrier;
ALTER TABLE shipment_line
    ADD FOREIGN KEY (shipment_id) REFERENCES shipment,
    ADD FOREIGN KEY (order_id, line) REFERENCES sales_order_line,
    ADD FOREIGN KEY (lot_id) REFERENCES lot;
ALTER TABLE movement
    ADD FOREIGN KEY (lot_id) REFERENCES lot,
    ADD FOREIGN KEY (from_location_id) REFERENCES location,
    ADD FOREIGN KEY (to_location_id) REFERENCES location,
    ADD FOREIGN KEY (order_id, line) REFERENCES sales_order_line,
    ADD FOREIGN KEY (employee_id) REFERENCES employee;

-- New rows go on after the generated ones.
SELECT setval(pg_get_serial_sequence(format('wms.%I', name), 'id'), high)
  FROM (SELECT 'purchase_order', max(id) FROM purchase_order
        UNION ALL SELECT 'lot', max(id) FROM lot
        UNION ALL SELECT 'sales_order', max(id) FROM sales_order
        UNION ALL SELECT 'shipment', max(id) FROM shipment
        UNION ALL SELECT 'movement', max(id) FROM movement) AS highest (name, high);
